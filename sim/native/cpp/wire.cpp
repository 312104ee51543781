#include "wire.h"

#include <algorithm>
#include <cstring>

namespace ringlet {

namespace {

constexpr unsigned kOverhead = 24;  // preamble and start 8, FCS 4, gap between frames 12
constexpr unsigned kPreamble = 8;
constexpr size_t kShortest = 60;    // without FCS; a shorter frame is padded on the line

constexpr unsigned lanes = layout::lanes;

}  // namespace

Wire::Wire(Events& events, Counters& counters, uint64_t seed)
    : rx_pace(seed), tx_pace(seed + 1), events_(events), counters_(counters), out_(1 << 17) {}

Wire::~Wire() { tap(nullptr); }

void Wire::send(const uint8_t* frame, unsigned size, bool error, uint64_t cycle) {
    queue_.push_back({std::vector<uint8_t>(frame, frame + size), error, cycle});
}

void Wire::generate(const uint8_t* frames, const uint32_t* sizes, unsigned count, int64_t total,
                    int64_t stamp_at, uint64_t cycle) {
    pattern_sizes_.assign(sizes, sizes + count);
    pattern_starts_.clear();
    size_t start = 0;
    for (uint32_t size : pattern_sizes_) {
        pattern_starts_.push_back(start);
        start += size;
    }
    pattern_.assign(frames, frames + start);
    pattern_next_ = 0;
    generate_left_ = count ? total : 0;
    stamp_at_ = stamp_at;
    stamp_ = 0;
    generate_from_ = cycle;
}

void Wire::forget() {
    queue_.clear();
    generate_left_ = 0;
}

bool Wire::tap(const char* path) {
    if (tap_) {
        fclose(tap_);
        tap_ = nullptr;
    }
    if (!path) return true;
    tap_ = fopen(path, "wb");
    if (!tap_) return false;
    struct {
        uint32_t magic = 0xA1B23C4D;  // times in nanoseconds
        uint16_t major = 2, minor = 4;
        uint32_t zone = 0, accuracy = 0, longest = 65535, ethernet = 1;
    } header;
    fwrite(&header, sizeof header, 1, tap_);
    return true;
}

void Wire::tell(bool received, const uint8_t* data, size_t size, uint64_t first, uint64_t last,
                bool error) {
    (received ? counters_.wire_rx_frames : counters_.wire_tx_frames) += 1;
    (received ? counters_.wire_rx_bytes : counters_.wire_tx_bytes) += size;
    if (!received) {
        events_.raise(kTransmitted);
        if (wake_at_frames && counters_.wire_tx_frames >= wake_at_frames) {
            wake_at_frames = 0;
            events_.raise(kFrames);
        }
    }
    if (tap_) {
        uint64_t time = uint64_t(double(last) * ns_per_cycle);
        uint32_t header[4] = {uint32_t(time / 1000000000), uint32_t(time % 1000000000),
                              uint32_t(size), uint32_t(size)};
        fwrite(header, sizeof header, 1, tap_);
        fwrite(data, 1, size, tap_);
    }
    if (keep == kNothing) return;
    bool with_bytes = keep == kBytes;
    if (records.size() >= max_records || (with_bytes && bytes.size() + size > max_bytes)) {
        ++counters_.frames_not_kept;
        events_.raise(kLogFull);
        return;
    }
    records.push_back({first, last, with_bytes ? bytes.size() : ~uint64_t(0), uint32_t(size),
                       received, error});
    if (with_bytes) bytes.insert(bytes.end(), data, data + size);
}

// --- received frames

bool Wire::begin_frame(uint64_t edge) {
    uint64_t queued_at;
    if (!queue_.empty()) {
        Queued& next = queue_.front();
        frame_size_ = next.bytes.size();
        frame_.swap(next.bytes);
        frame_error_ = next.error;
        queued_at = next.cycle;
        queue_.pop_front();
    } else if (generate_left_) {
        frame_size_ = pattern_sizes_[pattern_next_];
        const uint8_t* from = &pattern_[pattern_starts_[pattern_next_]];
        frame_.assign(from, from + frame_size_);
        frame_error_ = false;
        pattern_next_ = pattern_next_ + 1 == pattern_sizes_.size() ? 0 : pattern_next_ + 1;
        if (stamp_at_ >= 0 && size_t(stamp_at_) + 4 <= frame_size_)
            for (int i = 0; i < 4; ++i) frame_[stamp_at_ + i] = stamp_ >> (24 - 8 * i);
        ++stamp_;
        if (generate_left_ > 0) --generate_left_;
        queued_at = generate_from_;
    } else {
        return false;
    }
    frame_.resize(frame_size_ + lanes, 0xC3);  // lanes that mean nothing
    sending_ = true;
    at_ = 0;
    start_ = std::max(double(queued_at), rx_free_);
    if (rx_rate > 0) rx_free_ = start_ + (std::max(frame_size_, kShortest) + kOverhead) / rx_rate;
    (void)edge;
    return true;
}

void Wire::receive(uint64_t cycle, uint32_t* words, uint8_t* valid) {
    uint64_t edge = cycle + 1;  // when the card takes what is driven now
    bool go = false;
    if (sending_ || begin_frame(edge)) {
        size_t end = std::min(at_ + lanes, frame_size_);
        bool arrived = rx_rate <= 0 || double(edge) >= start_ + (kPreamble + end) / rx_rate;
        go = arrived && rx_pace.next();
        if (go) {
            bool last = end == frame_size_;
            memcpy(words, frame_.data() + at_, lanes);
            put(words, layout::rx_empty, lanes - (end - at_));
            put(words, layout::rx_last, last);
            put(words, layout::rx_error, last && frame_error_);
            if (at_ == 0) rx_first_ = edge;
            at_ = end;
            if (last) {
                sending_ = false;
                tell(true, frame_.data(), frame_size_, rx_first_, edge, frame_error_);
            }
        }
    }
    *valid = driving_ = go;
    if (!go && idle()) events_.raise(kReceiveIdle);
}

// --- transmitted frames

void Wire::transmit(uint64_t cycle, const uint32_t* words) {
    unsigned empty = get(words, layout::tx_empty);
    bool last = get(words, layout::tx_last);
    if (empty && !last) events_.violate("wire_tx: empty lanes before the last beat");
    if (!inside_) {
        inside_ = true;
        tx_first_ = cycle;
        out_size_ = 0;
    }
    if (out_size_ + lanes > out_.size()) {
        events_.violate("wire_tx: a frame of more than %zu bytes", out_.size());
        out_size_ = 0;
    }
    memcpy(out_.data() + out_size_, words, lanes);
    out_size_ += lanes - empty;
    if (tx_rate > 0) {
        size_t size = lanes - empty;
        if (last) size += kOverhead + (out_size_ < kShortest ? kShortest - out_size_ : 0);
        tx_free_ = std::max(tx_free_, double(cycle)) + size / tx_rate;
    }
    if (last) {
        inside_ = false;
        tell(false, out_.data(), out_size_, tx_first_, cycle, false);
    }
}

void Wire::step(uint64_t cycle, uint32_t* rx_words, uint8_t* rx_valid, const uint32_t* tx_words,
                const uint8_t* tx_valid, uint8_t* tx_ready) {
    if (driving_ || sending_ || generate_left_ || !queue_.empty())
        receive(cycle, rx_words, rx_valid);
    if (*tx_valid) {
        if (offered_ && memcmp(tx_words, before_, sizeof before_))
            events_.violate("wire_tx: the payload changed before the transfer");
        offered_ = !ready_;
        if (ready_) {
            transmit(cycle, tx_words);
        } else {
            memcpy(before_, tx_words, sizeof before_);
            ++counters_.wire_tx_stalled_cycles;
        }
    } else if (offered_) {
        offered_ = false;
        events_.violate("wire_tx: valid was withdrawn before the transfer");
    } else if (inside_ && ready_) {
        events_.violate("wire_tx: a gap inside a frame");
    }
    // A MAC holds a few beats: it stalls when the line is that far behind.
    bool behind = tx_rate > 0 && tx_free_ > double(cycle) + 4 * lanes / tx_rate;
    *tx_ready = ready_ = tx_pace.next() && !behind;
}

}  // namespace ringlet
