// The Verilated card. Compiled apart: what Verilator wrote is seen by this file alone.
#include "card.h"

#include "Vengine_top.h"
#include "layout.h"
#include "verilated.h"
#if RINGLET_TRACE
#include "verilated_vcd_c.h"
#endif

namespace ringlet {

namespace {

class VerilatedCard : public Card {
public:
    VerilatedCard() {
        context_.threads(1);
#if RINGLET_TRACE
        context_.traceEverOn(true);
#endif
        top_ = std::make_unique<Vengine_top>(&context_, "card");
        Vengine_top& top = *top_;
        ports = {
            top.cq_payload.data(), top.rc_payload.data(), top.wire_rx_payload.data(),
            &top.cq_valid, &top.rc_valid, &top.wire_rx_valid,
            &top.cc_ready, &top.rq_ready, &top.wire_tx_ready, &top.link_up, &top.rst,
            &top.np_credit,
            top.cc_payload.data(), top.rq_payload.data(), top.wire_tx_payload.data(),
            &top.cc_valid, &top.rq_valid, &top.wire_tx_valid, &top.cq_ready,
        };
        top.clk = 0;
        top.eval();
    }

    ~VerilatedCard() override {
#if RINGLET_TRACE
        if (trace_) trace_->close();
#endif
        top_->final();
    }

    void edge() override {
        // Inputs go into registers alone, so the falling edge has nothing to work out.
        top_->clk = 1;
        top_->eval();
        dump(0);
        top_->clk = 0;
        top_->eval();
        dump(1);
    }

    bool trace(const char* path, uint64_t first, uint64_t last) override {
#if RINGLET_TRACE
        first_ = first, last_ = last;
        if (!trace_) {
            trace_ = std::make_unique<VerilatedVcdC>();
            top_->trace(trace_.get(), 99);
            trace_->open(path);
        }
        return trace_->isOpen();
#else
        (void)path, (void)first, (void)last;
        return false;
#endif
    }

private:
    void dump(int half) {
#if RINGLET_TRACE
        uint64_t cycle = (time_ += layout::half_cycle_ps) / (2 * layout::half_cycle_ps);
        if (trace_ && first_ <= cycle && cycle <= last_) trace_->dump(time_);
#endif
        (void)half;
    }

    VerilatedContext context_;
    std::unique_ptr<Vengine_top> top_;
#if RINGLET_TRACE
    std::unique_ptr<VerilatedVcdC> trace_;
    uint64_t time_ = 0;
    uint64_t first_ = 0, last_ = 0;
#endif
};

}  // namespace

std::unique_ptr<Card> make_card() { return std::make_unique<VerilatedCard>(); }

}  // namespace ringlet
