// The engine for Python, by ctypes: plain functions on plain numbers, nothing called per cycle.
//
// Values were checked by the caller (sim/native/engine.py), which knows what to tell the user.
#include <cstring>
#include <exception>
#include <string>

#include "engine.h"
#include "packed_driver.h"
#include "split_driver.h"

using namespace ringlet;

namespace {

Engine& of(void* handle) { return *static_cast<Engine*>(handle); }

template <typename Record>
uint64_t take(Engine& engine, Ring<Record>& ring, void* to, uint64_t room) {
    Engine::Held held(engine);
    return ring.take(static_cast<Record*>(to), room);
}

}  // namespace

extern "C" {

void* rl_open(uint64_t seed, int with_card) { return new Engine(seed, with_card != 0); }
void rl_close(void* e) { delete &of(e); }
int rl_lanes() { return layout::lanes; }
uint64_t rl_cycle(void* e) { return of(e).cycle; }
double rl_cpu_seconds(void* e) { return of(e).cpu_seconds; }
uint32_t rl_run(void* e, uint64_t cycles, uint32_t until) { return of(e).run(cycles, until); }
int rl_trace(void* e, const char* path, uint64_t first, uint64_t last) {
    return of(e).card && of(e).card->trace(path, first, last);
}

const char* rl_counter_names() {
#define X(name) #name " "
    return RINGLET_COUNTERS(X);
#undef X
}

void rl_counters(void* e, uint64_t* to) {
    Engine::Held held(of(e));
    memcpy(to, &of(e).counters, sizeof(Counters));
}

// --- how the host, the link and the wire behave

int rl_set(void* e, const char* name, double value) {
    Engine& engine = of(e);
    Engine::Held held(engine);
    RootComplex& root = engine.root;
    std::string_view key = name;
    auto whole = [value] { return uint64_t(value); };
    if (key == "latency_cycles") root.latency_cycles = whole();
    else if (key == "jitter_cycles") root.jitter_cycles = whole();
    else if (key == "boundary_bytes") root.boundary_bytes = whole();
    else if (key == "splitting") root.splitting = RootComplex::Splitting(int(value));
    else if (key == "sampling") root.sampling = RootComplex::Sampling(int(value));
    else if (key == "credits") root.credits = whole();
    else if (key == "credit_cycles") root.credit_cycles = whole();
    else if (key == "host_timeout_cycles") root.access.timeout_cycles = whole();
    else if (key == "card_timeout_cycles") root.card_timeout_cycles = whole();
    else if (key == "patience_cycles") engine.patience_cycles = whole();
    else if (key == "down_rate") engine.link.down_rate = value;
    else if (key == "up_rate") engine.link.up_rate = value;
    else if (key == "up_buffer_bytes") engine.link.up_buffer_bytes = value;
    else if (key == "rq_flip") engine.rq.pace.set(value);
    else if (key == "cc_flip") engine.cc.pace.set(value);
    else if (key == "rc_flip") engine.rc.pace.set(value);
    else if (key == "cq_flip") engine.cq.pace.set(value);
    else if (key == "rx_flip") engine.wire.rx_pace.set(value);
    else if (key == "tx_flip") engine.wire.tx_pace.set(value);
    else if (key == "rx_rate") engine.wire.rx_rate = value;
    else if (key == "tx_rate") engine.wire.tx_rate = value;
    else if (key == "keep") engine.wire.keep = Wire::Keep(int(value));
    else if (key == "max_frames") engine.wire.max_records = whole();
    else if (key == "max_frame_bytes") engine.wire.max_bytes = whole();
    else if (key == "wake_at_frames") engine.wire.wake_at_frames = whole();
    else if (key == "ns_per_cycle") engine.wire.ns_per_cycle = value;
    else if (key == "tlp_log") engine.events.tlps.resize(whole());
    else if (key == "interrupt_log") engine.events.interrupts.resize(whole());
    else if (key == "link_up" && engine.card) *engine.card->ports.link_up = value != 0;
    else return 0;
    return 1;
}

// --- memory

uint64_t rl_region_add(void* e, uint64_t address, uint64_t size, uint8_t* given, int fd,
                       uint64_t offset, int device_reads, int device_writes) {
    Engine::Held held(of(e));
    return of(e).memory.add(address, size, given, fd, offset, device_reads, device_writes);
}

const char* rl_region_error(void* e) { return of(e).memory.error; }

int rl_region_remove(void* e, uint64_t id) {
    Engine::Held held(of(e));
    if (const Region* region = of(e).memory.region(id))
        for (auto& driver : of(e).drivers)
            driver->leave(region->bytes, region->bytes + region->size);
    return of(e).memory.remove(id);
}

uint8_t* rl_region_pointer(void* e, uint64_t id) {
    Engine::Held held(of(e));
    const Region* region = of(e).memory.region(id);
    return region ? region->bytes : nullptr;
}

void rl_dirty(void* e, uint8_t* bitmap, uint64_t bytes, uint64_t base, unsigned page_shift) {
    Engine::Held held(of(e));
    of(e).memory.log_dirty(bitmap, bytes, base, page_shift);
}

// The driver's own accesses go by words as large as their alignment allows, like a processor's.
void rl_load(uint8_t* to, const uint8_t* from, uint64_t bytes) { load_bytes(to, from, bytes); }
void rl_store(uint8_t* to, const uint8_t* from, uint64_t bytes) { store_bytes(to, from, bytes); }

// --- interrupts, faults

int rl_interrupt_add(void* e, uint64_t address, uint32_t data) {
    Engine::Held held(of(e));
    return of(e).root.add_interrupt(address, data);
}

const uint64_t* rl_interrupt_counts(void* e) { return of(e).root.interrupt_counts(); }

uint64_t rl_fault_add(void* e, uint64_t address, uint64_t size, int kind, int64_t count,
                      uint64_t late_cycles) {
    Engine::Held held(of(e));
    return of(e).root.add_fault(address, size, FaultKind(kind), count, late_cycles);
}

int rl_fault_remove(void* e, uint64_t id) {
    Engine::Held held(of(e));
    return of(e).root.remove_fault(id);
}

// --- accesses of the host

struct RequestRecord {
    uint64_t address;
    uint32_t dwords;
    uint16_t requester_id, completer_id, tag;
    uint8_t kind, first_be, last_be, traffic_class, attributes, poisoned;
};

static RequestHead head_of(const RequestRecord& record) {
    RequestHead head;
    head.kind = record.kind;
    head.address = record.address;
    head.dwords = record.dwords;
    head.first_be = record.first_be;
    head.last_be = record.last_be;
    head.requester_id = record.requester_id;
    head.completer_id = record.completer_id;
    head.tag = record.tag;
    head.traffic_class = record.traffic_class;
    head.attributes = record.attributes;
    head.poisoned = record.poisoned;
    return head;
}

uint64_t rl_access(void* e, const RequestRecord* request, const uint8_t* payload, unsigned bytes,
                   int forgotten) {
    Engine::Held held(of(e));
    return of(e).root.access.issue(head_of(*request), payload, bytes, forgotten);
}

struct AccessRecord {
    int32_t done, status;
    int64_t issued_at, answered_at;
    uint32_t bytes, tag;
    int32_t poisoned;
    uint8_t data[kMaxPayload];
};

// What became of an access; 0 when there is none of that number. Once it is done it is forgotten.
int rl_access_result(void* e, uint64_t id, AccessRecord* to) {
    Engine::Held held(of(e));
    const Access* access = of(e).root.access.find(id);
    if (!access) return 0;
    to->done = access->done;
    to->status = access->status;
    to->issued_at = access->issued_at;
    to->answered_at = access->answered_at;
    to->tag = access->request.tag;
    to->poisoned = access->poisoned;
    to->bytes = access->data.size();
    memcpy(to->data, access->data.data(), access->data.size());
    if (access->done) of(e).root.access.release(id);
    return 1;
}

int rl_access_done(void* e, uint64_t id) {
    Engine::Held held(of(e));
    const Access* access = of(e).root.access.find(id);
    return !access || access->done;
}

int rl_idle(void* e) {
    Engine::Held held(of(e));
    Engine& engine = of(e);
    return engine.root.idle() && engine.rc.idle() && engine.cq.idle();
}

uint64_t rl_reads_waiting(void* e) { return of(e).root.reads_waiting(); }

struct LimitsRecord {
    uint32_t bus_master, max_payload, max_read, tags;
};

void rl_function(void* e, unsigned bdf, LimitsRecord* to) {
    Engine::Held held(of(e));
    FunctionShadow& function = of(e).root.function(bdf);
    *to = {function.bus_master, function.max_payload, function.max_read, function.tags};
}

// --- wire

void rl_wire_send(void* e, const uint8_t* bytes, const uint32_t* sizes, uint64_t frames,
                  int error) {
    Engine& engine = of(e);
    Engine::Held held(engine);
    for (uint64_t i = 0; i < frames; bytes += sizes[i++])
        engine.wire.send(bytes, sizes[i], error, engine.cycle + 1);
}

void rl_wire_generate(void* e, const uint8_t* bytes, const uint32_t* sizes, unsigned frames,
                      int64_t count, int64_t stamp_at) {
    Engine& engine = of(e);
    Engine::Held held(engine);
    engine.wire.generate(bytes, sizes, frames, count, stamp_at, engine.cycle + 1);
}

void rl_wire_forget(void* e) {
    Engine::Held held(of(e));
    of(e).wire.forget();
}

int rl_wire_idle(void* e) { return of(e).wire.idle(); }
uint64_t rl_wire_waiting(void* e) { return of(e).wire.waiting(); }

int rl_wire_tap(void* e, const char* path) {
    Engine::Held held(of(e));
    return of(e).wire.tap(path);
}

void rl_frames_kept(void* e, uint64_t* records, uint64_t* bytes) {
    Engine::Held held(of(e));
    *records = of(e).wire.records.size();
    *bytes = of(e).wire.bytes.size();
}

void rl_frames_take(void* e, FrameRecord* records, uint8_t* bytes) {
    Engine::Held held(of(e));
    Wire& wire = of(e).wire;
    if (!wire.records.empty())
        memcpy(records, wire.records.data(), wire.records.size() * sizeof(FrameRecord));
    if (!wire.bytes.empty()) memcpy(bytes, wire.bytes.data(), wire.bytes.size());
    wire.records.clear();
    wire.bytes.clear();
}

// --- logs

uint64_t rl_tlps_take(void* e, void* to, uint64_t room) {
    return take(of(e), of(e).events.tlps, to, room);
}

uint64_t rl_interrupts_take(void* e, void* to, uint64_t room) {
    return take(of(e), of(e).events.interrupts, to, room);
}

uint64_t rl_violations_take(void* e, void* to, uint64_t room) {
    return take(of(e), of(e).events.violations, to, room);
}

void rl_log_sizes(void* e, uint64_t* to) {
    Engine::Held held(of(e));
    Events& events = of(e).events;
    to[0] = events.tlps.size(), to[1] = events.tlps.lost;
    to[2] = events.interrupts.size(), to[3] = events.interrupts.lost;
    to[4] = events.violations.size(), to[5] = events.violations.lost;
}

// --- ring drivers

// Where `size` bytes at a bus address lie, or null.
static uint8_t* area(Engine& engine, uint64_t address, uint64_t size) {
    const Region* region = engine.memory.find(address, size);
    return region ? region->bytes + (address - region->address) : nullptr;
}

static int add(Engine& engine, std::unique_ptr<RingDriver> driver) {
    engine.drivers.push_back(std::move(driver));
    return int(engine.drivers.size()) - 1;
}

int rl_split_driver_add(void* e, const RingDriver::Parameters* parameters, uint64_t available,
                        uint64_t used) {
    Engine::Held held(of(e));
    uint64_t size = parameters->size;
    unsigned event = parameters->event_idx ? 2 : 0;
    uint8_t* available_at = area(of(e), available, 4 + 2 * size + event);
    if (!available_at) return -1;
    uint8_t* used_at = area(of(e), used, 4 + 8 * size + event);
    if (!used_at) return -2;
    return add(of(e), std::make_unique<SplitDriver>(*parameters, available_at, used_at));
}

int rl_packed_driver_add(void* e, const RingDriver::Parameters* parameters, uint64_t descriptors,
                         uint64_t device_event, unsigned used,
                         const PackedDriver::Chain* chains, unsigned count) {
    Engine::Held held(of(e));
    uint8_t* descriptors_at = area(of(e), descriptors, 16 * uint64_t(parameters->size));
    if (!descriptors_at) return -1;
    uint8_t* event_at = area(of(e), device_event, 4);
    if (!event_at) return -2;
    return add(of(e), std::make_unique<PackedDriver>(*parameters, descriptors_at, event_at, used,
                                                     chains, count));
}

struct DriverRecord {
    uint64_t done, bytes, kicks, kicks_spared, first_cycle, last_cycle, times;
};

void rl_driver_state(void* e, unsigned index, DriverRecord* to) {
    Engine::Held held(of(e));
    const RingDriver& driver = *of(e).drivers[index];
    *to = {driver.done, driver.bytes, driver.kicks, driver.kicks_spared, driver.first_cycle,
           driver.last_cycle, driver.times.size()};
}

void rl_driver_times(void* e, unsigned index, uint64_t* to) {
    Engine::Held held(of(e));
    const auto& times = of(e).drivers[index]->times;
    if (!times.empty()) memcpy(to, times.data(), times.size() * sizeof(uint64_t));
}

struct PieceRecord {
    uint64_t address;
    uint32_t bytes;
    uint32_t chain;
};

// Tell a driver where the bytes of its chains lie; gives how many pieces lie in memory, which are
// all of them if it is done.
unsigned rl_driver_contents(void* e, unsigned index, const PieceRecord* pieces, unsigned count,
                            int64_t stamp_at, uint32_t number) {
    Engine::Held held(of(e));
    std::vector<Contents::Piece> found;
    for (unsigned i = 0; i < count; ++i) {
        uint8_t* at = area(of(e), pieces[i].address, pieces[i].bytes);
        if (!at) return i;
        found.push_back({at, pieces[i].bytes, pieces[i].chain});
    }
    of(e).drivers[index]->contents =
        std::make_unique<Contents>(found.data(), count, stamp_at, number);
    return count;
}

void rl_driver_kept(void* e, unsigned index, uint64_t* to) {
    Engine::Held held(of(e));
    const Contents* contents = of(e).drivers[index]->contents.get();
    to[0] = contents ? contents->records.size() : 0;
    to[1] = contents ? contents->bytes.size() : 0;
    to[2] = contents ? contents->number : 0;
}

void rl_driver_take(void* e, unsigned index, Contents::Record* records, uint8_t* bytes) {
    Engine::Held held(of(e));
    Contents* contents = of(e).drivers[index]->contents.get();
    if (!contents || contents->records.empty()) return;
    memcpy(records, contents->records.data(), contents->records.size() * sizeof *records);
    if (!contents->bytes.empty())
        memcpy(bytes, contents->bytes.data(), contents->bytes.size());
    contents->records.clear();
    contents->bytes.clear();
}

void rl_driver_stop(void* e, unsigned index) {
    Engine::Held held(of(e));
    of(e).drivers[index]->stop();
}

void rl_drivers_clear(void* e) {
    Engine::Held held(of(e));
    of(e).drivers.clear();
}

// --- the card played by hand

void rl_hand_request(void* e, const RequestRecord* request, const uint8_t* payload) {
    Engine& engine = of(e);
    engine.events.now = engine.cycle;
    engine.root.receive_request(head_of(*request), payload, engine.cycle);
}

void rl_play_request(void* e, const RequestRecord* request, const uint8_t* payload,
                     unsigned bytes) {
    of(e).playing.push_back({head_of(*request), {payload, payload + bytes}});
}

uint64_t rl_played_at(void* e) { return of(e).played_at; }

struct CompletionRecord {
    uint64_t cycle;
    uint32_t byte_count, lower_address, dwords, bytes;
    uint16_t requester_id, completer_id, tag;
    uint8_t status, traffic_class, attributes, poisoned;
};

void rl_hand_completion(void* e, const CompletionRecord* record, const uint8_t* payload) {
    Engine& engine = of(e);
    engine.events.now = engine.cycle;
    CompletionHead head;
    head.byte_count = record->byte_count;
    head.lower_address = record->lower_address;
    head.dwords = record->dwords;
    head.requester_id = record->requester_id;
    head.completer_id = record->completer_id;
    head.tag = record->tag;
    head.status = record->status;
    head.traffic_class = record->traffic_class;
    head.attributes = record->attributes;
    head.poisoned = record->poisoned;
    engine.root.receive_completion(head, payload);
}

// The oldest completion that the host has sent; 0 when there is none.
int rl_hand_sent(void* e, CompletionRecord* to, uint8_t* payload) {
    Engine& engine = of(e);
    if (engine.sent.empty()) return 0;
    const Engine::Sent& sent = engine.sent.front();
    const CompletionHead& head = sent.head;
    *to = {sent.cycle, head.byte_count, head.lower_address, head.dwords,
           uint32_t(sent.payload.size()), head.requester_id, head.completer_id, head.tag,
           head.status, head.traffic_class, head.attributes, head.poisoned};
    memcpy(payload, sent.payload.data(), sent.payload.size());
    engine.sent.erase(engine.sent.begin());
    return 1;
}

unsigned rl_hand_credit(void* e) {
    of(e).events.now = of(e).cycle;
    return of(e).root.credit_limit();
}

}  // extern "C"
