// Drives a compiled accelerator: beats in on stream x, beats out on stream y, cycle by cycle, behind a C interface.
//
// Compiled together with the model that Verilator wrote (class Vtop). Port widths become C++ types (CData to QData,
// VlWide), so templates and overloads adapt to them; a design without registers has no clock, which `requires` sees.

#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "Vtop.h"
#if HWGEN_TRACE_VCD
#include "verilated_vcd_c.h"
using Waveform = VerilatedVcdC;
#endif

namespace {

constexpr int RESET_CYCLES = 2;

enum Status : int { RUNNING = 0, DONE = 1, DEADLOCK = 2, UNSTABLE = 3, FAILED = 4 };

template <typename Port>
constexpr uint64_t limbs_of() {
    return (sizeof(std::remove_reference_t<Port>) + 3) / 4;
}

constexpr uint64_t IN_LIMBS = limbs_of<decltype(Vtop::x___05Fpayload)>();
constexpr uint64_t OUT_LIMBS = limbs_of<decltype(Vtop::y___05Fpayload)>();

template <typename Word>
void load(Word& port, const uint32_t* limbs) {
    if constexpr (std::is_integral_v<Word>) {
        uint64_t value = limbs[0];
        if constexpr (sizeof(Word) == 8) value |= static_cast<uint64_t>(limbs[1]) << 32;
        port = static_cast<Word>(value);
    } else {
        std::memcpy(port.data(), limbs, sizeof(Word));
    }
}

template <typename Word>
void store(const Word& port, uint32_t* limbs) {
    if constexpr (std::is_integral_v<Word>) {
        limbs[0] = static_cast<uint32_t>(port);
        if constexpr (sizeof(Word) == 8) limbs[1] = static_cast<uint32_t>(port >> 32);
    } else {
        std::memcpy(limbs, port.data(), sizeof(Word));
    }
}

template <typename Model>
void set_clock(Model& model, int value) {
    if constexpr (requires { model.clk; }) model.clk = value;
}

template <typename Model>
void set_reset(Model& model, int value) {
    if constexpr (requires { model.rst; }) model.rst = value;
}

// splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint32_t draw() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
    }

  private:
    uint64_t state_;
};

struct Job {
    const uint32_t* in = nullptr;
    uint64_t in_beats = 0;
    uint32_t* out = nullptr;
    int64_t* out_cycles = nullptr;
    uint64_t out_beats = 0;
    uint32_t input_stall = 0;   // probability in units of 2^-32
    uint32_t output_stall = 0;
    int64_t reset_at = -1;  // none if negative
    uint64_t max_idle = 0;
};

class Simulator {
  public:
    explicit Simulator(const char* images) {
        const std::string argument = std::string{"+hwgen_images="} + images;
        const char* arguments[] = {"hwgen", argument.c_str()};
        context_.commandArgs(2, arguments);
#if HWGEN_TRACE_VCD
        context_.traceEverOn(true);
#endif
        model_ = std::make_unique<Vtop>(&context_, "host");
        set_clock(*model_, 0);
        model_->eval();
    }

    bool open_waveform(const char* path) {
#if HWGEN_TRACE_VCD
        waveform_ = std::make_unique<Waveform>();
        model_->trace(waveform_.get(), 99);
        waveform_->open(path);
        return waveform_->isOpen();
#else
        (void)path;
        return false;
#endif
    }

    void close_waveform() {
#if HWGEN_TRACE_VCD
        waveform_.reset();
#endif
    }

    void begin(const Job& job, uint64_t seed) {
        job_ = job;
        input_random_ = Random(seed * 2);
        output_random_ = Random(seed * 2 + 1);
        cycle_ = -RESET_CYCLES;
        message_.clear();
        restart();
    }

    Status advance(uint64_t cycles) {
        for (uint64_t i = 0; i < cycles; ++i) {
            if (received_ == job_.out_beats) return DONE;
            if (cycle_ - progress_cycle_ > static_cast<int64_t>(job_.max_idle)) return DEADLOCK;
            if (job_.reset_at >= 0 && cycle_ == job_.reset_at) {
                restart();
                reset_left_ = RESET_CYCLES;
            }
            if (reset_left_ > 0) {
                reset_cycle();
            } else if (!stream_cycle()) {
                return UNSTABLE;
            }
            ++cycle_;
        }
        return received_ == job_.out_beats ? DONE : RUNNING;
    }

    int64_t cycle() const { return cycle_; }
    uint64_t sent() const { return sent_; }
    uint64_t received() const { return received_; }
    std::string& message() { return message_; }

  private:
    void restart() {
        sent_ = received_ = 0;
        offered_ = stalled_ = false;
        progress_cycle_ = cycle_ + RESET_CYCLES;
        reset_left_ = RESET_CYCLES;
    }

    void reset_cycle() {
        set_reset(*model_, 1);
        model_->x___05Fvalid = 0;
        model_->y___05Fready = 0;
        tick();
        if (--reset_left_ == 0) set_reset(*model_, 0);
    }

    bool stream_cycle() {
        Vtop& model = *model_;
        // A beat that was offered stays until it is taken, as the stream's rules demand.
        if (!offered_ && sent_ < job_.in_beats && (!job_.input_stall || input_random_.draw() >= job_.input_stall)) {
            offered_ = true;
            load(model.x___05Fpayload, job_.in + sent_ * IN_LIMBS);
        }
        model.x___05Fvalid = offered_;
        model.y___05Fready = !job_.output_stall || output_random_.draw() >= job_.output_stall;
        settle();
        const bool taken = offered_ && model.x___05Fready;
        const bool given = model.y___05Fvalid && model.y___05Fready;
        if (stalled_ && !unchanged()) return false;
        if (given) {
            store(model.y___05Fpayload, job_.out + received_ * OUT_LIMBS);
            job_.out_cycles[received_] = cycle_;
            ++received_;
        }
        stalled_ = model.y___05Fvalid && !given;
        if (stalled_) store(model.y___05Fpayload, held_);
        if (taken) {
            ++sent_;
            offered_ = false;
        }
        if (taken || given) progress_cycle_ = cycle_;
        clock_edge();
        return true;
    }

    bool unchanged() {
        uint32_t now[OUT_LIMBS];
        store(model_->y___05Fpayload, now);
        return model_->y___05Fvalid && std::memcmp(now, held_, sizeof(now)) == 0;
    }

    void settle() {
        set_clock(*model_, 0);
        model_->eval();
        dump(0);
    }

    void clock_edge() {
        set_clock(*model_, 1);
        model_->eval();
        dump(1);
    }

    void tick() {
        settle();
        clock_edge();
    }

    void dump(int half) {
#if HWGEN_TRACE_VCD
        if (waveform_) waveform_->dump(static_cast<uint64_t>(2 * (cycle_ + RESET_CYCLES) + half));
#else
        (void)half;
#endif
    }

    VerilatedContext context_;
    std::unique_ptr<Vtop> model_;
#if HWGEN_TRACE_VCD
    std::unique_ptr<Waveform> waveform_;
#endif
    Job job_;
    Random input_random_{0}, output_random_{0};
    int64_t cycle_ = 0, progress_cycle_ = 0;
    uint64_t sent_ = 0, received_ = 0;
    int reset_left_ = 0;
    bool offered_ = false, stalled_ = false;
    uint32_t held_[OUT_LIMBS] = {};
    std::string message_;
};

}  // namespace

// Verilator's own would end the process, and Python with it.
void vl_fatal(const char* file, int line, const char*, const char* message) {
    throw std::runtime_error(std::string{file} + ":" + std::to_string(line) + ": " + message);
}
void vl_stop(const char* file, int line, const char* scope) { vl_fatal(file, line, scope, "$stop"); }

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT uint64_t hwgen_in_limbs() { return IN_LIMBS; }
EXPORT uint64_t hwgen_out_limbs() { return OUT_LIMBS; }

EXPORT Simulator* hwgen_create(const char* images) {
    try {
        return new Simulator(images);
    } catch (const std::exception&) {
        return nullptr;
    }
}

EXPORT void hwgen_destroy(Simulator* simulator) { delete simulator; }

EXPORT int hwgen_open_waveform(Simulator* simulator, const char* path) { return simulator->open_waveform(path); }
EXPORT void hwgen_close_waveform(Simulator* simulator) { simulator->close_waveform(); }

EXPORT void hwgen_begin(Simulator* simulator, const uint32_t* in, uint64_t in_beats, uint32_t* out,
                        int64_t* out_cycles, uint64_t out_beats, uint32_t input_stall, uint32_t output_stall,
                        int64_t reset_at, uint64_t max_idle, uint64_t seed) {
    simulator->begin({in, in_beats, out, out_cycles, out_beats, input_stall, output_stall, reset_at, max_idle}, seed);
}

EXPORT int hwgen_advance(Simulator* simulator, uint64_t cycles) {
    try {
        return simulator->advance(cycles);
    } catch (const std::exception& error) {
        simulator->message() = error.what();
        return FAILED;
    }
}

EXPORT int64_t hwgen_cycle(const Simulator* simulator) { return simulator->cycle(); }
EXPORT uint64_t hwgen_sent(const Simulator* simulator) { return simulator->sent(); }
EXPORT uint64_t hwgen_received(const Simulator* simulator) { return simulator->received(); }
EXPORT const char* hwgen_message(Simulator* simulator) { return simulator->message().c_str(); }
