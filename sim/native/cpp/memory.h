// Host memory: regions of bus addresses, each on bytes that this process can reach.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace ringlet {

// What must be consistent is moved whole. An aligned 16 bytes (a descriptor) are one load or store,
// and an aligned field of 1, 2, 4 or 8 bytes (an index, a flag) likewise: on the other side of the
// memory may be a guest that runs at the same time.
void load_bytes(uint8_t* to, const uint8_t* from, size_t bytes);
void store_bytes(uint8_t* to, const uint8_t* from, size_t bytes);

struct Region {
    uint64_t address = 0;
    uint64_t size = 0;
    uint8_t* bytes = nullptr;
    bool device_reads = true;
    bool device_writes = true;
    uint64_t id = 0;
    void* mapped = nullptr;  // what munmap is told; null where the bytes are somebody else's
    size_t mapped_size = 0;
};

class HostMemory {
public:
    ~HostMemory();

    // Add a region; 0 and a reason in `error` when it cannot be. Bytes: given, or mapped from a file
    // descriptor at an offset (fd >= 0), or zeroed memory of our own. Regions never overlap.
    uint64_t add(uint64_t address, uint64_t size, uint8_t* given, int fd, uint64_t offset,
                 bool device_reads, bool device_writes);
    bool remove(uint64_t id);
    const Region* region(uint64_t id) const;  // or null

    // The region that holds all of these bytes, or null.
    const Region* find(uint64_t address, uint64_t size) const;

    // Mark every page that the card writes, as a bit each, from page `base` on.
    void log_dirty(uint8_t* bitmap, uint64_t bitmap_bytes, uint64_t base, unsigned page_shift);

    void write(const Region& region, uint64_t address, const uint8_t* data, size_t size);

    const char* error = "";

private:
    std::vector<Region> regions_;  // by address
    mutable size_t last_ = 0;      // where the last look was: rings and buffers come again
    uint64_t next_id_ = 1;
    uint8_t* dirty_ = nullptr;
    uint64_t dirty_bits_ = 0;
    uint64_t dirty_base_ = 0;
    unsigned dirty_shift_ = 12;
};

}  // namespace ringlet
