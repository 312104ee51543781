// Fields of a stream's payload, which a simulator keeps as an array of 32-bit words.
#pragma once

#include <cstdint>

namespace ringlet {

// Where a field lies. The positions come from layout.h, which is made from the card's own layouts.
struct Field {
    unsigned at;
    unsigned bits;
};

// Reads a field of at most 64 bits.
inline uint64_t get(const uint32_t* words, Field field) {
    unsigned word = field.at / 32, shift = field.at % 32;
    uint64_t value = words[word] >> shift;
    for (unsigned have = 32 - shift; have < field.bits; have += 32)
        value |= uint64_t(words[++word]) << have;
    return field.bits == 64 ? value : value & ((uint64_t(1) << field.bits) - 1);
}

// Writes a field of at most 64 bits; bits of the value beyond it are cut off.
inline void put(uint32_t* words, Field field, uint64_t value) {
    unsigned word = field.at / 32, shift = field.at % 32;
    for (unsigned done = 0; done < field.bits;) {
        unsigned count = 32 - shift < field.bits - done ? 32 - shift : field.bits - done;
        uint32_t mask = count == 32 ? 0xFFFFFFFFu : ((1u << count) - 1);
        words[word] = (words[word] & ~(mask << shift)) | ((uint32_t(value) & mask) << shift);
        value >>= count;
        done += count;
        shift = 0;
        ++word;
    }
}

}  // namespace ringlet
