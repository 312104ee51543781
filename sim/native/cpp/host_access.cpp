#include "host_access.h"

namespace ringlet {

uint64_t HostAccess::issue(const RequestHead& request, const uint8_t* payload, unsigned bytes,
                           bool forgotten) {
    auto access = std::make_unique<Access>();
    access->id = next_id_++;
    access->request = request;
    access->payload.assign(payload, payload + bytes);
    access->forgotten = forgotten;
    queue_.push_back(access.get());
    uint64_t id = access->id;
    all_.emplace(id, std::move(access));
    return id;
}

Access* HostAccess::next(uint64_t cycle) {
    while (!later_.empty() && later_.front().first <= cycle) {
        queue_.push_back(later_.front().second);
        later_.pop_front();
    }
    if (queue_.empty()) return nullptr;
    Access* access = queue_.front();
    if (posted(access->request.kind)) {
        queue_.pop_front();
        access->issued_at = access->answered_at = cycle;
        access->done = true;
        events_.raise(kAccessDone);
        return access;
    }
    if (awaited_ == kTags) return nullptr;
    queue_.pop_front();
    while (waiting_[tag_]) tag_ = (tag_ + 1) % kTags;
    access->request.tag = tag_;
    waiting_[tag_] = access;
    ++awaited_;
    tag_ = (tag_ + 1) % kTags;
    if (access->issued_at < 0) access->issued_at = cycle;
    return access;
}

void HostAccess::sent(Access& access) {
    if (access.done && access.forgotten) all_.erase(access.id);
}

bool HostAccess::take(Access& access, const CompletionHead& head, const uint8_t* payload,
                      uint64_t cycle) {
    const RequestHead& request = access.request;
    bool config = request.kind == kConfigRead || request.kind == kConfigWrite;
    if (head.status == kRetry && !head.dwords && config &&
        int64_t(cycle) - access.issued_at < int64_t(timeout_cycles)) {
        // A function that is not ready yet: ask again, as a root complex does.
        waiting_[request.tag] = nullptr;
        --awaited_;
        later_.emplace_back(cycle + kRetryCycles, &access);
        return false;
    }
    access.poisoned |= head.poisoned;
    unsigned bytes = 4 * head.dwords;
    if (bytes >= 4) memcpy(&access.last_dword, payload, 4);
    if (head.status != kSuccess || request.kind == kConfigWrite || request.kind == kIoWrite) {
        end(access, head.status, cycle);
        return true;
    }
    Span span = span_of(request);
    unsigned skip = (span.low + access.data.size()) & 3;
    for (unsigned at = skip; at < bytes && access.data.size() < span.bytes; ++at)
        access.data.push_back(payload[at]);
    if (access.data.size() < span.bytes) return false;
    end(access, head.status, cycle);
    return true;
}

void HostAccess::expire(uint64_t cycle) {
    if (!awaited_) return;
    for (Access* access : waiting_) {
        if (!access || int64_t(cycle) - access->issued_at < int64_t(timeout_cycles)) continue;
        const RequestHead request = access->request;
        end(*access, kNoStatus, cycle);
        events_.violate("%s of 0x%llx was not answered within %llu cycles", kind_name(request.kind),
                        static_cast<unsigned long long>(request.address),
                        static_cast<unsigned long long>(timeout_cycles));
    }
}

void HostAccess::end(Access& access, int status, uint64_t cycle) {
    waiting_[access.request.tag] = nullptr;
    --awaited_;
    access.done = true;
    access.status = status;
    access.answered_at = cycle;
    events_.raise(kAccessDone);
}

const Access* HostAccess::find(uint64_t id) const {
    auto found = all_.find(id);
    return found == all_.end() ? nullptr : found->second.get();
}

void HostAccess::release(uint64_t id) {
    auto found = all_.find(id);
    if (found == all_.end()) return;
    if (found->second->done) all_.erase(found);
    else found->second->forgotten = true;
}

}  // namespace ringlet
