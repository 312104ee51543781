#include "memory.h"

#include <emmintrin.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ringlet {

namespace {

constexpr size_t kChunk = 16;

template <typename Word>
void move_one(uint8_t* to, const uint8_t* from) {
    // Volatile on both sides: the compiler may neither split nor widen nor repeat it.
    *reinterpret_cast<volatile Word*>(to) = *reinterpret_cast<const volatile Word*>(from);
}

// Moves up to the next chunk, by the largest words that `aligned` (host memory) is aligned to.
size_t move_part(uint8_t* to, const uint8_t* from, uintptr_t aligned, size_t bytes) {
    for (size_t word : {size_t(8), size_t(4), size_t(2)}) {
        if (bytes >= word && aligned % word == 0) {
            if (word == 8) move_one<uint64_t>(to, from);
            else if (word == 4) move_one<uint32_t>(to, from);
            else move_one<uint16_t>(to, from);
            return word;
        }
    }
    move_one<uint8_t>(to, from);
    return 1;
}

}  // namespace

void load_bytes(uint8_t* to, const uint8_t* from, size_t bytes) {
    while (bytes) {
        auto aligned = reinterpret_cast<uintptr_t>(from);
        if (aligned % kChunk == 0 && bytes >= kChunk) {
            auto chunk = _mm_load_si128(reinterpret_cast<const __m128i*>(from));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to), chunk);
            to += kChunk, from += kChunk, bytes -= kChunk;
            continue;
        }
        size_t moved = move_part(to, from, aligned, bytes);
        to += moved, from += moved, bytes -= moved;
    }
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

void store_bytes(uint8_t* to, const uint8_t* from, size_t bytes) {
    while (bytes) {
        auto aligned = reinterpret_cast<uintptr_t>(to);
        if (aligned % kChunk == 0 && bytes >= kChunk) {
            auto chunk = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
            _mm_store_si128(reinterpret_cast<__m128i*>(to), chunk);
            to += kChunk, from += kChunk, bytes -= kChunk;
            continue;
        }
        size_t moved = move_part(to, from, aligned, bytes);
        to += moved, from += moved, bytes -= moved;
    }
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

HostMemory::~HostMemory() {
    for (Region& region : regions_)
        if (region.mapped) munmap(region.mapped, region.mapped_size);
}

uint64_t HostMemory::add(uint64_t address, uint64_t size, uint8_t* given, int fd, uint64_t offset,
                         bool device_reads, bool device_writes) {
    if (!size || address + size - 1 < address) {
        error = "must be 1 byte or more, and end within 64 bits of address";
        return 0;
    }
    auto at = std::upper_bound(regions_.begin(), regions_.end(), address,
                               [](uint64_t a, const Region& r) { return a < r.address; });
    if ((at != regions_.end() && at->address - address < size) ||
        (at != regions_.begin() && address - (at - 1)->address < (at - 1)->size)) {
        error = "must not overlap another region";
        return 0;
    }
    Region region;
    region.address = address;
    region.size = size;
    region.bytes = given;
    region.device_reads = device_reads;
    region.device_writes = device_writes;
    if (!given) {
        // A file is mapped from the page on in which the offset lies. Memory of our own begins at the
        // same place in a page as its bus address, so that both are equally aligned.
        uint64_t page = sysconf(_SC_PAGESIZE);
        uint64_t lead = (fd >= 0 ? offset : address) % page;
        void* mapped = mmap(nullptr, size + lead, PROT_READ | PROT_WRITE,
                            fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd,
                            fd >= 0 ? offset - lead : 0);
        if (mapped == MAP_FAILED) {
            error = strerror(errno);
            return 0;
        }
        region.mapped = mapped;
        region.mapped_size = size + lead;
        region.bytes = static_cast<uint8_t*>(mapped) + lead;
    }
    region.id = next_id_++;
    regions_.insert(at, region);
    last_ = 0;
    return region.id;
}

bool HostMemory::remove(uint64_t id) {
    auto at = std::find_if(regions_.begin(), regions_.end(),
                           [id](const Region& r) { return r.id == id; });
    if (at == regions_.end()) return false;
    if (at->mapped) munmap(at->mapped, at->mapped_size);
    regions_.erase(at);
    last_ = 0;
    return true;
}

const Region* HostMemory::region(uint64_t id) const {
    for (const Region& region : regions_)
        if (region.id == id) return &region;
    return nullptr;
}

const Region* HostMemory::find(uint64_t address, uint64_t size) const {
    auto holds = [&](const Region& r) {
        return address >= r.address && address - r.address < r.size &&
               size <= r.size - (address - r.address);
    };
    if (last_ < regions_.size() && holds(regions_[last_])) return &regions_[last_];
    auto at = std::upper_bound(regions_.begin(), regions_.end(), address,
                               [](uint64_t a, const Region& r) { return a < r.address; });
    if (at == regions_.begin() || !holds(*--at)) return nullptr;
    last_ = at - regions_.begin();
    return &*at;
}

void HostMemory::log_dirty(uint8_t* bitmap, uint64_t bitmap_bytes, uint64_t base,
                           unsigned page_shift) {
    dirty_ = bitmap;
    dirty_bits_ = bitmap ? bitmap_bytes * 8 : 0;
    dirty_base_ = base;
    dirty_shift_ = page_shift;
}

void HostMemory::write(const Region& region, uint64_t address, const uint8_t* data, size_t size) {
    store_bytes(region.bytes + (address - region.address), data, size);
    if (!dirty_ || address < dirty_base_) return;
    // After the write: who clears a bit and copies the page then has the new bytes.
    uint64_t first = (address - dirty_base_) >> dirty_shift_;
    uint64_t last = (address + size - 1 - dirty_base_) >> dirty_shift_;
    for (uint64_t page = first; page <= last && page < dirty_bits_; ++page)
        __atomic_fetch_or(dirty_ + page / 8, uint8_t(1u << page % 8), __ATOMIC_RELEASE);
}

}  // namespace ringlet
