#include "root_complex.h"

#include <algorithm>

namespace ringlet {

namespace {

// Writes here are interrupts, as on a PC.
constexpr uint64_t kDoorbells = 0xFEE00000, kDoorbellsEnd = 0xFEF00000;
constexpr uint8_t kFill = 0xBD;  // bytes of a completion's dwords that nobody asked for

uint32_t key_of(const RequestHead& request) {
    return uint32_t(request.requester_id) << 16 | request.tag;
}

unsigned long long number(uint64_t value) { return value; }

}  // namespace

RootComplex::RootComplex(Events& events, Counters& counters, HostMemory& memory)
    : access(events), events_(events), counters_(counters), memory_(memory),
      interrupt_counts_(kMaxInterrupts) {}

FunctionShadow* RootComplex::known(unsigned bdf) {
    auto found = functions_.find(bdf);
    return found == functions_.end() ? nullptr : &found->second;
}

void RootComplex::push(uint64_t cycle, uint64_t order, uint32_t key) {
    due_.push_back({cycle, order, key});
    std::push_heap(due_.begin(), due_.end());
}

// --- requests of the card

void RootComplex::receive_request(const RequestHead& request, const uint8_t* payload,
                                  uint64_t first_cycle) {
    check_request(events_, request, known(request.requester_id), first_cycle);
    Span span = span_of(request);
    events_.log(kRq, request.kind, request.address + span.low, span.bytes, request.tag,
                request.requester_id, payload, has_payload(request.kind) ? 4 * request.dwords : 0);
    if (request.kind == kMemWrite) {
        ++counters_.rq_writes;
        counters_.rq_write_bytes += 4 * request.dwords;
        store(request, payload);
    } else if (!posted(request.kind)) {
        ++counters_.rq_reads;
        counters_.rq_read_bytes += 4 * request.dwords;
        begin_read(request);
    }
}

void RootComplex::store(const RequestHead& request, const uint8_t* payload) {
    if (request.address >= kDoorbells && request.address < kDoorbellsEnd) {
        interrupt(request, payload);
        return;
    }
    Span span = span_of(request);
    uint64_t start = request.address + span.low;
    const Region* region = memory_.find(start, span.bytes);
    if (!region || !region->device_writes) {
        events_.violate("rq write of %u bytes at 0x%llx: %s", span.bytes, number(start),
                        region ? "memory that is not for writing" : "memory that no driver gave");
        return;
    }
    if (request.dwords > 2) {
        memory_.write(*region, start, payload + span.low, span.bytes);
        return;
    }
    // Only here can byte enables have holes.
    unsigned enables = request.first_be | (request.dwords == 2 ? request.last_be << 4 : 0);
    for (unsigned at = 0; enables >> at; ++at) {
        unsigned begin = at;
        while (enables >> at & 1) ++at;
        if (at > begin)
            memory_.write(*region, request.address + begin, payload + begin, at - begin);
    }
}

void RootComplex::interrupt(const RequestHead& request, const uint8_t* payload) {
    ++counters_.rq_interrupts;
    uint32_t value;
    memcpy(&value, payload, 4);
    if (request.dwords != 1 || request.first_be != 0xF) {
        events_.violate("interrupt at 0x%llx is no single whole dword", number(request.address));
        return;
    }
    auto found = interrupts_.find(request.address << 32 | value);
    if (found == interrupts_.end()) {
        events_.violate("interrupt 0x%x at 0x%llx was given to nobody", value,
                        number(request.address));
        return;
    }
    ++interrupt_counts_[found->second];
    events_.interrupts.add({events_.now, found->second, request.requester_id});
    events_.raise(kInterrupt);
}

int RootComplex::add_interrupt(uint64_t address, uint32_t data) {
    if (interrupts_known_ == kMaxInterrupts || address < kDoorbells || address >= kDoorbellsEnd ||
        interrupts_.count(address << 32 | data))
        return -1;
    interrupts_[address << 32 | data] = interrupts_known_;
    return interrupts_known_++;
}

void RootComplex::begin_read(const RequestHead& request) {
    take_credit();
    uint32_t key = key_of(request);
    auto old = reads_.find(key);
    if (old != reads_.end()) {
        if (events_.now - old->second.begun_at < card_timeout_cycles)
            events_.violate("rq read: tag %u of 0x%04x is in use", request.tag,
                            request.requester_id);
        reads_.erase(old);  // what was still to come would be taken for the new answer
    }
    Span span = span_of(request);
    Read& read = reads_[key];
    read.request = request;
    read.start = request.address + span.low;
    read.size = read.left = span.bytes;
    read.begun_at = events_.now;
    read.order = ++arrivals_;
    const FunctionShadow* function = known(request.requester_id);
    read.max_payload = function ? function->max_payload : 128;
    const Region* region = memory_.find(read.start, read.size);
    read.refused = request.kind != kMemRead || !region || !region->device_reads;
    if (read.refused)
        events_.violate("rq read of %u bytes at 0x%llx: %s", read.size, number(read.start),
                        region ? "memory that is not for reading" : "memory that no driver gave");
    else if (sampling == kAtArrival) {
        read.sample.resize(read.size);
        load_bytes(read.sample.data(), region->bytes + (read.start - region->address), read.size);
    }
    push(events_.now + latency_cycles + jitter(), read.order, key);
}

void RootComplex::take_credit() {
    credit_limit();
    ++credits_used_;
    releases_.push_back(events_.now + credit_cycles);
    if (credits && credits_used_ > credit_limit_)
        events_.violate("rq read without credit: %llu sent, limit %llu", number(credits_used_),
                        number(credit_limit_));
}

unsigned RootComplex::credit_limit() {
    // Another number of credits takes part from now on; what was granted stays granted.
    if (credits > credits_before_) credit_limit_ += credits - credits_before_;
    credits_before_ = credits > credits_before_ ? credits : credits_before_;
    while (!releases_.empty() && releases_.front() <= events_.now) {
        releases_.pop_front();
        ++credit_limit_;
    }
    return credit_limit_ & 0xFF;
}

// --- completions to the card

bool RootComplex::next_completion(OutgoingTlp<CompletionHead>& out) {
    while (completion_due()) {
        Due due = due_.front();
        std::pop_heap(due_.begin(), due_.end());
        due_.pop_back();
        auto found = reads_.find(due.key);
        if (found == reads_.end() || found->second.order != due.order) continue;
        Read& read = found->second;
        if (!next_piece(read, due.key, out)) continue;
        events_.log(kRc, out.head.status, read.start + read.size - out.head.byte_count, out.bytes,
                    out.head.tag, out.head.requester_id, out.payload, out.bytes);
        ++counters_.rc_completions;
        counters_.rc_bytes += out.bytes;
        if (!read.left) {
            reads_.erase(found);
        } else {
            // Without jitter the completions of a read stay together.
            uint64_t more = jitter();
            push(more ? events_.now + more : due.cycle, due.order, due.key);
        }
        return true;
    }
    return false;
}

// Where the completion that begins at `address` ends: on a boundary, or with the read.
unsigned RootComplex::cut(const Read& read, uint64_t address) {
    uint64_t end = read.start + read.size;
    uint64_t furthest = std::min(end, (address & ~uint64_t(3)) + read.max_payload);
    uint64_t nearest = (address / boundary_bytes + 1) * boundary_bytes;
    if (end <= nearest) return end - address;
    uint64_t steps = furthest >= nearest ? (furthest - nearest) / boundary_bytes : 0;
    uint64_t last = nearest + steps * boundary_bytes;
    bool whole = furthest == end && end != last;  // the end itself is one more choice
    if (splitting == kSmall) return nearest - address;
    if (splitting == kLarge) return (whole ? end : last) - address;
    uint64_t choice = random_.below(steps + 1 + whole);
    return (choice > steps ? end : nearest + choice * boundary_bytes) - address;
}

Fault* RootComplex::fault_of(const Read& read, uint64_t address, uint64_t size) {
    for (Fault& fault : faults_) {
        if (!fault.left || address >= fault.address + fault.size || fault.address >= address + size)
            continue;
        if (fault.kind == FaultKind::kLate &&
            std::find(read.delayed.begin(), read.delayed.end(), address) != read.delayed.end())
            continue;
        return &fault;
    }
    return nullptr;
}

// Makes the next completion of a read; false when it is late, or never comes.
bool RootComplex::next_piece(Read& read, uint32_t key, OutgoingTlp<CompletionHead>& out) {
    uint64_t address = read.start + read.size - read.left;
    unsigned size = read.refused ? 0 : cut(read, address);
    const Region* region = nullptr;
    if (!read.refused && read.sample.empty()) {
        // The memory may have gone since the read arrived; then nobody is there to answer.
        region = memory_.find(read.start, read.size);
        if (!region || !region->device_reads) size = 0;
    }
    Fault* fault = faults_.empty() ? nullptr : fault_of(read, address, size);
    CompletionHead& head = out.head;
    head = CompletionHead{};
    head.byte_count = read.left;
    head.lower_address = address & 0x7F;
    head.requester_id = read.request.requester_id;
    head.tag = read.request.tag;
    head.traffic_class = read.request.traffic_class;
    head.attributes = read.request.attributes;
    out.bytes = 0;
    if (!size) head.status = kUnsupported;
    if (fault) {
        if (fault->left > 0) --fault->left;
        switch (fault->kind) {
        case FaultKind::kLate:
            read.delayed.push_back(address);
            push(events_.now + fault->late_cycles, read.order, key);
            return false;
        case FaultKind::kNever: return false;
        case FaultKind::kUnsupported: head.status = kUnsupported; break;
        case FaultKind::kAbort: head.status = kAbort; break;
        case FaultKind::kPoisoned: head.poisoned = 1; break;
        }
    }
    if (head.status != kSuccess) {
        head.poisoned = 0;
        read.left = 0;
        return true;
    }
    unsigned lead = address & 3;
    out.bytes = (lead + size + 3) & ~3u;
    head.dwords = out.bytes / 4;
    memset(out.payload, kFill, lead);
    memset(out.payload + lead + size, kFill, out.bytes - lead - size);
    if (region)
        load_bytes(out.payload + lead, region->bytes + (address - region->address), size);
    else
        memcpy(out.payload + lead, read.sample.data() + (address - read.start), size);
    if (head.poisoned)
        for (unsigned i = 0; i < size; ++i) out.payload[lead + i] ^= 0xFF;
    read.left -= size;
    return true;
}

uint64_t RootComplex::add_fault(uint64_t address, uint64_t size, FaultKind kind, int64_t count,
                                uint64_t late_cycles) {
    faults_.push_back({next_fault_, address, size, kind, count, late_cycles});
    return next_fault_++;
}

bool RootComplex::remove_fault(uint64_t id) {
    return std::erase_if(faults_, [id](const Fault& fault) { return fault.id == id; }) > 0;
}

// --- requests to the card, and its completions

bool RootComplex::next_request(OutgoingTlp<RequestHead>& out) {
    Access* next = access.next(events_.now);
    if (!next) return false;
    out.head = next->request;
    out.bytes = next->payload.size();
    memcpy(out.payload, next->payload.data(), out.bytes);
    ++counters_.cq_requests;
    if (out.head.kind == kConfigWrite) {
        uint32_t value;
        memcpy(&value, out.payload, 4);
        function(out.head.completer_id).note_sent(out.head.address, out.head.first_be, value);
    }
    events_.log(kCq, out.head.kind, out.head.address, 4 * out.head.dwords, out.head.tag,
                out.head.requester_id, out.payload, out.bytes);
    access.sent(*next);
    return true;
}

void RootComplex::receive_completion(const CompletionHead& head, const uint8_t* payload) {
    ++counters_.cc_completions;
    unsigned bytes = 4 * head.dwords;
    Access* asked = access.waiting(head.tag);
    if (!asked) {
        events_.log(kCc, head.status, ~uint64_t(0), bytes, head.tag, head.requester_id, payload,
                    bytes);
        events_.violate("cc: a completion for tag %u that nobody waits for", head.tag);
        return;
    }
    events_.log(kCc, head.status, asked->request.address + asked->data.size(), bytes, head.tag,
                head.requester_id, payload, bytes);
    check_completion(events_, asked->request, head, asked->data.size());
    const RequestHead request = asked->request;
    if (!access.take(*asked, head, payload, events_.now)) return;
    if (asked->status == kSuccess) {
        // What the answer tells of the function.
        if (request.kind == kConfigRead) {
            function(request.completer_id).note_read(request.address, request.first_be,
                                                     asked->last_dword, events_.now);
        } else if (request.kind == kConfigWrite) {
            uint32_t value;
            memcpy(&value, asked->payload.data(), 4);
            function(request.completer_id).note_written(request.address, request.first_be, value,
                                                        events_.now);
        }
    }
    access.sent(*asked);
}

}  // namespace ringlet
