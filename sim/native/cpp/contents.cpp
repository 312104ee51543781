#include "contents.h"

#include <algorithm>

namespace ringlet {

Contents::Contents(const Piece* pieces, unsigned count, int64_t stamp_at, uint32_t number)
    : number(number), stamp_at_(stamp_at), pieces_(pieces, pieces + count) {
    uint32_t chains = 0;
    for (const Piece& piece : pieces_) chains = std::max(chains, piece.chain + 1);
    first_.resize(chains);
    count_.resize(chains);
    for (uint32_t place = 0; place < count; ++place) {
        uint32_t chain = pieces_[place].chain;
        if (!count_[chain]++) first_[chain] = place;
    }
}

bool Contents::lies_in(const uint8_t* begin, const uint8_t* end) const {
    return std::any_of(pieces_.begin(), pieces_.end(), [=](const Piece& piece) {
        return piece.at >= begin && piece.at < end;
    });
}

bool Contents::came(unsigned chain, uint32_t written) {
    uint32_t room = 0, left = written;
    if (chain < count_.size()) {
        for (uint32_t place = first_[chain]; place < first_[chain] + count_[chain]; ++place) {
            const Piece& piece = pieces_[place];
            uint32_t part = std::min(left, piece.bytes);
            bytes.insert(bytes.end(), piece.at, piece.at + part);
            left -= part;
            room += piece.bytes;
        }
    }
    records.push_back({written, room});
    return !left;
}

void Contents::stamp(unsigned chain) {
    uint32_t value = number++;
    if (chain >= count_.size()) return;
    int64_t at = stamp_at_;
    unsigned left = 4;
    for (uint32_t place = first_[chain]; left && place < first_[chain] + count_[chain]; ++place) {
        const Piece& piece = pieces_[place];
        for (; left && at < piece.bytes; ++at) piece.at[at] = uint8_t(value >> 8 * --left);
        at -= piece.bytes;
    }
}

}  // namespace ringlet
