// What happened, for Python to read in bulk: rings of plain records, and what is wrong as text.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace ringlet {

// Reasons for which a run ends before its cycles are over; the caller chooses among them.
enum Event : uint32_t {
    kInterrupt = 1,       // the card raised an interrupt
    kAccessDone = 2,      // an access of the host was answered, given up, or has left
    kTransmitted = 4,     // a frame left the card on the wire
    kViolation = 8,       // the card did what it must not
    kReceiveIdle = 16,    // the last frame that was queued has gone into the card
    kLogFull = 32,        // a log has lost records, or is about to
    kDriverDone = 64,     // a ring driver has done what it was asked for
    kFrames = 128,        // the awaited number of transmitted frames was reached
};

// The newest records up to a capacity; older ones are lost, and counted.
template <typename Record>
class Ring {
public:
    explicit Ring(size_t capacity) : capacity_(capacity) {}

    void resize(size_t capacity) {
        capacity_ = capacity;
        records_.clear();
        records_.shrink_to_fit();
        first_ = 0;
    }

    void add(const Record& record) {
        if (!capacity_) return;
        if (records_.size() < capacity_) {
            records_.push_back(record);
        } else {
            records_[first_] = record;
            first_ = first_ + 1 == capacity_ ? 0 : first_ + 1;
            ++lost;
        }
        ++total;
    }

    size_t size() const { return records_.size(); }
    bool full() const { return capacity_ && records_.size() == capacity_; }

    // Moves all records out, oldest first.
    size_t take(Record* to, size_t room) {
        size_t count = records_.size() < room ? records_.size() : room;
        for (size_t i = 0; i < count; ++i) to[i] = records_[(first_ + i) % records_.size()];
        if (count == records_.size()) {
            records_.clear();
        } else {
            std::vector<Record> rest;
            for (size_t i = count; i < records_.size(); ++i)
                rest.push_back(records_[(first_ + i) % records_.size()]);
            records_.swap(rest);
        }
        first_ = 0;
        return count;
    }

    uint64_t lost = 0;
    uint64_t total = 0;

private:
    size_t capacity_;
    size_t first_ = 0;
    std::vector<Record> records_;
};

enum Channel : uint8_t { kCq, kCc, kRq, kRc };

// One TLP that passed; the same facts as tb's TlpRecord.
struct TlpRecord {
    uint64_t cycle;
    uint64_t address;  // all ones when nobody knows
    uint32_t size;
    uint16_t tag;
    uint16_t requester_id;
    uint8_t channel;
    uint8_t kind;  // kind of a request, status of a completion
    uint8_t pad[6];
    uint8_t data[16];
};
static_assert(sizeof(TlpRecord) == 48);

struct InterruptRecord {
    uint64_t cycle;
    uint32_t index;
    uint32_t requester_id;
};
static_assert(sizeof(InterruptRecord) == 16);

struct FrameRecord {
    uint64_t first_cycle;
    uint64_t last_cycle;
    uint64_t offset;  // of its bytes among those that are kept; all ones when they were not
    uint32_t bytes;
    uint16_t received;  // 1: into the card, 0: out of it
    uint16_t error;
};
static_assert(sizeof(FrameRecord) == 32);

struct ViolationRecord {
    uint64_t cycle;
    char text[152];
};
static_assert(sizeof(ViolationRecord) == 160);

// The logs, and the reasons to stop that came up since the run began.
class Events {
public:
    uint32_t raised = 0;
    uint64_t now = 0;  // the present cycle, for who writes a record
    Ring<TlpRecord> tlps{65536};
    Ring<InterruptRecord> interrupts{65536};
    Ring<ViolationRecord> violations{256};

    void raise(Event event) { raised |= event; }

    [[gnu::format(printf, 2, 3)]] void violate(const char* format, ...) {
        ViolationRecord record{};
        record.cycle = now;
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(record.text, sizeof record.text, format, arguments);
        va_end(arguments);
        violations.add(record);
        raise(kViolation);
    }

    void log(Channel channel, unsigned kind, uint64_t address, uint32_t size, unsigned tag,
             unsigned requester_id, const uint8_t* payload, unsigned bytes) {
        TlpRecord record{};
        record.cycle = now;
        record.address = address;
        record.size = size;
        record.tag = tag;
        record.requester_id = requester_id;
        record.channel = channel;
        record.kind = kind;
        if (payload) memcpy(record.data, payload, bytes < 16 ? bytes : 16);
        tlps.add(record);
    }
};

}  // namespace ringlet
