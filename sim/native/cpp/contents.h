// What is in the chains of a ring driver, for who wants to see every byte of every chain.
#pragma once

#include <cstdint>
#include <vector>

namespace ringlet {

// The buffers of chains, by what their driver calls them. Whatever the card wrote into a chain is
// kept until it is taken; or each chain gets a number of its own before the card is given it, so
// that no two frames are alike.
class Contents {
public:
    struct Piece {
        uint8_t* at;
        uint32_t bytes;
        uint32_t chain;
    };

    // What was kept of a chain.
    struct Record {
        uint32_t written;
        uint32_t room;
    };

    // The pieces of one chain stand together, in the order of its bytes. The numbers count up from
    // `number`, and lie `stamp_at` bytes behind the beginning: 4 bytes, the highest first. Below 0
    // there are none, and what the card wrote is kept instead.
    Contents(const Piece* pieces, unsigned count, int64_t stamp_at, uint32_t number);

    bool keeps() const { return stamp_at_ < 0; }
    bool lies_in(const uint8_t* begin, const uint8_t* end) const;

    // The card has written so much into a chain; false if the chain has no room for it.
    bool came(unsigned chain, uint32_t written);

    // A chain is about to be given.
    void stamp(unsigned chain);

    uint32_t number;  // of the chain that is given next
    std::vector<Record> records;
    std::vector<uint8_t> bytes;

private:
    int64_t stamp_at_;
    std::vector<Piece> pieces_;
    std::vector<uint32_t> first_;  // of a chain's pieces; those of the next chain follow
    std::vector<uint32_t> count_;
};

}  // namespace ringlet
