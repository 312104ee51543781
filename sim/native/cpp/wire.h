// The wire's side of the card: frames in at the rate of a line, frames out, kept or only counted.
#pragma once

#include <cstdint>
#include <cstdio>
#include <deque>
#include <vector>

#include "counters.h"
#include "events.h"
#include "layout.h"
#include "random.h"

namespace ringlet {

class Wire {
public:
    Wire(Events& events, Counters& counters, uint64_t seed);
    ~Wire();

    double rx_rate = 0;  // bytes a cycle of the line; 0: a beat every cycle
    double tx_rate = 0;
    Pace rx_pace, tx_pace;
    enum Keep : int { kNothing, kRecords, kBytes } keep = kBytes;
    uint64_t max_records = 1 << 20;       // frames that are kept until they are taken
    uint64_t max_bytes = 256 << 20;
    uint64_t wake_at_frames = 0;          // raise kFrames when so many have been transmitted
    double ns_per_cycle = 4;

    void send(const uint8_t* bytes, unsigned size, bool error, uint64_t cycle);

    // Send these frames over and over, `count` in all (-1: without end), behind those queued. With
    // `stamp_at` >= 0 each gets its number there, 4 bytes, the highest first.
    void generate(const uint8_t* bytes, const uint32_t* sizes, unsigned frames, int64_t count,
                  int64_t stamp_at, uint64_t cycle);
    void forget();  // what has not begun is not sent
    size_t waiting() const { return queue_.size(); }
    bool idle() const { return !sending_ && queue_.empty() && !generate_left_ && !driving_; }

    // Write every frame from now on to a pcap file, both directions; null ends it.
    bool tap(const char* path);

    // One edge of each direction.
    void step(uint64_t cycle, uint32_t* rx_words, uint8_t* rx_valid, const uint32_t* tx_words,
              const uint8_t* tx_valid, uint8_t* tx_ready);

    std::vector<FrameRecord> records;  // in the order of the last beats
    std::vector<uint8_t> bytes;

private:
    struct Queued {
        std::vector<uint8_t> bytes;
        bool error;
        uint64_t cycle;
    };

    Events& events_;
    Counters& counters_;
    FILE* tap_ = nullptr;
    // receive
    std::deque<Queued> queue_;
    std::vector<uint8_t> pattern_;
    std::vector<uint32_t> pattern_sizes_;
    std::vector<size_t> pattern_starts_;
    size_t pattern_next_ = 0;
    int64_t generate_left_ = 0;
    int64_t stamp_at_ = -1;
    uint32_t stamp_ = 0;
    uint64_t generate_from_ = 0;
    std::vector<uint8_t> frame_;  // on its way in, and some room behind it
    size_t frame_size_ = 0;
    bool frame_error_ = false;
    bool sending_ = false;
    size_t at_ = 0;
    double start_ = 0;
    double rx_free_ = 0;
    bool driving_ = false;
    uint64_t rx_first_ = 0;
    // transmit
    std::vector<uint8_t> out_;
    size_t out_size_ = 0;
    bool inside_ = false;
    bool ready_ = false;
    bool offered_ = false;
    uint32_t before_[layout::tx_words];
    uint64_t tx_first_ = 0;
    double tx_free_ = 0;

    bool begin_frame(uint64_t edge);
    void receive(uint64_t cycle, uint32_t* words, uint8_t* valid);
    void transmit(uint64_t cycle, const uint32_t* words);
    void tell(bool received, const uint8_t* data, size_t size, uint64_t first, uint64_t last,
              bool error);
};

}  // namespace ringlet
