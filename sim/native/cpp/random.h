// A small generator of random numbers: the same numbers for the same seed, on every machine.
#pragma once

#include <cstdint>

namespace ringlet {

class Random {
public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 0x1234567) {}

    uint64_t next() {  // splitmix64
        uint64_t z = state_ += 0x9E3779B97F4A7C15ull;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return z ^ (z >> 31);
    }

    // 0 to count - 1.
    uint64_t below(uint64_t count) { return (unsigned __int128)(next()) * count >> 64; }

private:
    uint64_t state_;
};

// How eager one side of a stream is: always, or runs of go and stall of random length.
class Pace {
public:
    explicit Pace(uint64_t seed) : random_(seed) {}

    // The chance that go turns into stall or back, in each cycle; 0 is always go.
    void set(double flip) {
        threshold_ = flip <= 0 ? 0 : uint64_t(flip * 4294967296.0);
        go_ = true;
    }

    bool next() {
        if (threshold_ && (random_.next() >> 32) < threshold_) go_ = !go_;
        return go_;
    }

private:
    Random random_;
    uint64_t threshold_ = 0;
    bool go_ = true;
};

}  // namespace ringlet
