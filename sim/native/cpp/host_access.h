// What the host asks of the card: requests in order, their tags, and what became of each.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "events.h"
#include "tlp.h"

namespace ringlet {

constexpr int kNoStatus = -1;  // waiting, after a time-out, and of a posted write

struct Access {
    uint64_t id = 0;
    RequestHead request;
    std::vector<uint8_t> payload;
    bool done = false;
    bool forgotten = false;  // nobody will ask what became of it
    bool poisoned = false;
    int status = kNoStatus;
    std::vector<uint8_t> data;  // enabled bytes of a read, from the first to the last
    int64_t issued_at = -1;
    int64_t answered_at = -1;
    uint32_t last_dword = 0;  // of the last completion
};

class HostAccess {
public:
    explicit HostAccess(Events& events) : events_(events) {}

    uint64_t timeout_cycles = 20000;

    uint64_t issue(const RequestHead& request, const uint8_t* payload, unsigned bytes,
                   bool forgotten);

    // The next request to send, with its tag, or null; the caller sends it now.
    Access* next(uint64_t cycle);

    // The access that waits for this tag, or null.
    Access* waiting(unsigned tag) { return tag < kTags ? waiting_[tag] : nullptr; }

    // Add a completion to its access; true when the access has ended by it.
    bool take(Access& access, const CompletionHead& head, const uint8_t* payload, uint64_t cycle);

    // Give up what the card has not answered in time.
    void expire(uint64_t cycle);

    // What became of an access, or null when it is unknown (or was released).
    const Access* find(uint64_t id) const;
    void release(uint64_t id);

    // Drop a posted access that nobody asks about, after it was sent.
    void sent(Access& access);

    bool has_request() const { return !queue_.empty() || !later_.empty(); }
    bool idle() const { return !has_request() && !awaited_; }

private:
    static constexpr unsigned kTags = 256;
    static constexpr unsigned kRetryCycles = 200;

    Events& events_;
    std::unordered_map<uint64_t, std::unique_ptr<Access>> all_;
    std::deque<Access*> queue_;
    std::deque<std::pair<uint64_t, Access*>> later_;
    Access* waiting_[kTags] = {};
    unsigned awaited_ = 0;
    unsigned tag_ = 0;
    uint64_t next_id_ = 1;

    void end(Access& access, int status, uint64_t cycle);
};

}  // namespace ringlet
