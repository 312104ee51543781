// The two ends of a TLP stream: whole TLPs on this side, beats and handshakes on the card's.
#pragma once

#include <cstdint>
#include <cstring>

#include "events.h"
#include "random.h"
#include "tlp.h"

namespace ringlet {

// What tells the streams of requests from those of completions.
template <typename Head>
struct Beat;

template <>
struct Beat<RequestHead> {
    static constexpr Field empty = layout::request_beat_empty, last = layout::request_beat_last;
    static constexpr unsigned words = layout::request_words;
    static RequestHead read(const uint32_t* from) { return read_request(from); }
    static bool payload(const RequestHead& head) { return has_payload(head.kind); }
    // Where a header means nothing it is not zero, so that a card that looks at it is found out.
    static RequestHead noise() {
        RequestHead head;
        head.kind = 5, head.address = 0x9D369D369D369D36, head.dwords = 0x59D, head.first_be = 9;
        head.last_be = 6, head.requester_id = 0x369D, head.completer_id = 0x9D36, head.tag = 0x136;
        head.traffic_class = 5, head.attributes = 2, head.poisoned = 1;
        return head;
    }
};

template <>
struct Beat<CompletionHead> {
    static constexpr Field empty = layout::completion_beat_empty;
    static constexpr Field last = layout::completion_beat_last;
    static constexpr unsigned words = layout::completion_words;
    static CompletionHead read(const uint32_t* from) { return read_completion(from); }
    static bool payload(const CompletionHead& head) { return head.dwords > 0; }
    static CompletionHead noise() {
        CompletionHead head;
        head.status = 5, head.byte_count = 0x19D3, head.lower_address = 0x36, head.dwords = 0x59D;
        head.requester_id = 0x369D, head.completer_id = 0x9D36, head.tag = 0x136;
        head.traffic_class = 5, head.attributes = 2, head.poisoned = 1;
        return head;
    }
};

// A stream from the card: takes beats, checks the rules of streams, gives whole TLPs.
template <typename Head>
class Incoming {
public:
    Incoming(const char* name, Events& events, uint64_t seed)
        : pace(seed), name_(name), events_(events) {}

    Pace pace;
    uint64_t beats = 0;
    uint64_t stalled = 0;

    // One edge: `take(head, payload, bytes, first_cycle)` is called with the last beat of a TLP.
    // `room` says whether the host takes a beat at the next edge.
    template <typename Take>
    void step(uint64_t cycle, const uint8_t* valid, const uint32_t* words, uint8_t* ready,
              bool room, Take take) {
        if (*valid) {
            if (offered_ && memcmp(words, before_, sizeof before_))
                events_.violate("%s: the payload changed before the transfer", name_);
            offered_ = !ready_;
            if (ready_) {
                feed(cycle, words, take);
            } else {
                memcpy(before_, words, sizeof before_);
                ++stalled;
            }
        } else if (offered_) {
            offered_ = false;
            events_.violate("%s: valid was withdrawn before the transfer", name_);
        }
        *ready = ready_ = pace.next() && room;
    }

private:
    const char* name_;
    Events& events_;
    bool ready_ = false;
    bool offered_ = false;
    bool inside_ = false;
    unsigned bytes_ = 0;
    uint64_t first_cycle_ = 0;
    Head head_;
    uint32_t before_[Beat<Head>::words];
    alignas(64) uint8_t payload_[kMaxPayload + 2 * layout::lanes];

    template <typename Take>
    void feed(uint64_t cycle, const uint32_t* words, Take take) {
        using Is = Beat<Head>;
        ++beats;
        unsigned empty = get(words, Is::empty);
        bool last = get(words, Is::last);
        if (!inside_) {
            inside_ = true;
            first_cycle_ = cycle;
            bytes_ = 0;
            head_ = Is::read(words);
        }
        if (empty && !last) events_.violate("%s: empty lanes before the last beat", name_);
        if (bytes_ <= kMaxPayload) memcpy(payload_ + bytes_, words, layout::lanes);
        bytes_ += layout::lanes - empty;
        if (!last) return;
        inside_ = false;
        if (!Is::payload(head_)) {
            if (bytes_ > layout::lanes)
                events_.violate("%s: %u bytes in a TLP without payload", name_, bytes_);
            bytes_ = 0;
        } else if (bytes_ != 4 * head_.dwords) {
            events_.violate("%s: %u bytes of payload for %u dwords", name_, bytes_, head_.dwords);
            return;
        }
        take(head_, payload_, bytes_, first_cycle_);
    }
};

// A stream to the card: sends TLPs, with gaps where the pace stalls.
template <typename Head>
class Outgoing {
public:
    explicit Outgoing(uint64_t seed) : pace(seed) {}

    Pace pace;
    uint64_t beats = 0;
    uint64_t stalled = 0;  // cycles that the present beat has waited for the card

    bool idle() const { return !driving_ && !left_; }

    // One edge: `fill(tlp)` gives the next TLP, or false when there is none.
    template <typename Fill>
    void step(const uint8_t* ready, uint8_t* valid, uint32_t* words, Fill fill) {
        if (driving_) {
            if (ready && !*ready) {
                ++stalled;
                return;
            }
            stalled = 0;
            driving_ = false;
            if (pace.next() && load(words, fill)) return;
            *valid = 0;
        } else if (next(fill) && pace.next()) {
            load(words, fill);
            *valid = 1;
        }
    }

private:
    OutgoingTlp<Head> tlp_;
    bool driving_ = false;
    unsigned at_ = 0;
    unsigned left_ = 0;  // beats

    template <typename Fill>
    bool next(Fill fill) {
        if (left_) return true;
        if (!fill(tlp_)) return false;
        at_ = 0;
        left_ = tlp_.bytes ? (tlp_.bytes + layout::lanes - 1) / layout::lanes : 1;
        memset(tlp_.payload + tlp_.bytes, 0xA5, layout::lanes);
        return true;
    }

    template <typename Fill>
    bool load(uint32_t* words, Fill fill) {
        using Is = Beat<Head>;
        if (!next(fill)) return false;
        bool last = --left_ == 0;
        memcpy(words, tlp_.payload + at_, layout::lanes);
        put(words, Is::empty, last && tlp_.bytes ? (0u - tlp_.bytes) % layout::lanes : 0);
        put(words, Is::last, last);
        if (at_ == 0) write_header(words, tlp_.head);
        else if (at_ == layout::lanes) write_header(words, Is::noise());
        at_ += layout::lanes;
        driving_ = true;
        ++beats;
        return true;
    }
};

}  // namespace ringlet
