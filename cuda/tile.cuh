// What the kernels of this folder share: warp products, and two machines that run one kernel body.
//
// A kernel is a struct with `static run(machine, args, block)`. Its per-thread code stands in
// `machine.each([&](int thread, Registers& r) {...})`; barriers are `machine.sync()` and
// `machine.sync_warp()`; shared memory goes through get/put; a warp product is `machine.multiply()`.
//   GpuBlock   each() runs the calling thread, sync() is __syncthreads(), multiply() is mma.sync (or FMA):
//              the kernel.
//   HostBlock  each() loops over all threads of the block, multiply() gathers the 32 lanes' fragments as the
//              PTX manual lays them out, and every access to shared memory is checked for a missing barrier:
//              the host twin. Same tiles, masks, index maps and order of phases.
// What the twin cannot show: that hardware agrees with the manual, and speed. Shared memory and registers
// start as NaN there.
//
// Fragments. A lane l = 4 g + c of a warp holds, for a 16 x 8 tile of the result, rows g, g + 8 and columns
// 2c, 2c + 1 (PTX ISA, mma.m16n8k16). Operands are read in chunks of 16 bytes, V = 16 / sizeof(T) elements
// along the contraction: lane c of a quad takes [cV, (c + 1) V) of a span of 4 V. mma wants k = 2c, 2c+1,
// 2c+8, 2c+9 there instead; a sum does not care in which order both operands number their terms, so words 0,
// 1 of the chunks feed one mma and words 2, 3 the next, for 16-bit numbers (k16) and tf32 (k8) alike.
#pragma once

#include "numbers.cuh"

#include <type_traits>
#include <vector>

// --------------------------------------------------------------------------------------------- warp products
// STEPS rounds cover one span of 4 V contraction indices. In each, a lane holds chunk `chunk_of` of rows g, g
// + 8 of the left operand and of `B_CHUNKS` columns of the right one.
template <class T> struct TensorCore {  // Bf16, Fp16: m16n8k16; float: tf32 m16n8k8. Sums in float32
    static constexpr int STEPS = 1, B_CHUNKS = 1;
    static constexpr int K = 32 / int(sizeof(T));  // contraction of one mma
    BOTH static int chunk_of(int lane, int) { return lane % 4; }
    BOTH static int column(int lane, int) { return lane / 4; }
    BOTH static Chunk rounded(Chunk chunk) {
        if constexpr (sizeof(T) == 4) {
            UNROLL for (int i = 0; i < 4; i++) {
#ifdef __CUDA_ARCH__
                asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(chunk.word[i]) : "f"(__uint_as_float(chunk.word[i])));
#else
                chunk.word[i] = (chunk.word[i] + 0x1000u) & 0xffffe000u;
#endif
            }
        }
        return chunk;
    }
#ifdef __CUDACC__
    __device__ static void multiply(float (&c)[4], const Chunk (&a)[2], const Chunk (&b)[1]) {
#define ARCH_LAB_MMA(KIND)                                                                                   \
    asm volatile("mma.sync.aligned." KIND " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                            \
                 : "r"(a[0].word[s]), "r"(a[1].word[s]), "r"(a[0].word[s + 1]), "r"(a[1].word[s + 1]),       \
                   "r"(b[0].word[s]), "r"(b[0].word[s + 1]))
        UNROLL for (int s = 0; s < 4; s += 2) {
            if constexpr (std::is_same_v<T, Bf16>) ARCH_LAB_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
            else if constexpr (std::is_same_v<T, Fp16>) ARCH_LAB_MMA("m16n8k16.row.col.f32.f16.f16.f32");
            else ARCH_LAB_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
        }
#undef ARCH_LAB_MMA
    }
#endif
    // The same product from the registers of 32 lanes, laid out as in the PTX ISA, "Matrix Fragments for
    // mma.m16n8k16 / m16n8k8".
    template <class Registers> static void multiply_warp(Registers* lanes, int i, int j) {
        // numbers in a register, contraction indices before its second half
        constexpr int PACK = 4 / int(sizeof(T)), HALF = K / 2;
        for (int s = 0; s < 4; s += 2) {
            float a[16][K], b[K][8];
            for (int k = 0; k < K; k++) {
                int lane = (k % HALF) / PACK, word = s + k / HALF, shift = 32 / PACK * (k % PACK);
                for (int row = 0; row < 16; row++)
                    a[row][k] =
                        to_float(from_raw<T>(lanes[row % 8 * 4 + lane].a[i][row / 8].word[word] >> shift));
                for (int column = 0; column < 8; column++)
                    b[k][column] =
                        to_float(from_raw<T>(lanes[column * 4 + lane].b[j][0].word[word] >> shift));
            }
            for (int row = 0; row < 16; row++)
                for (int column = 0; column < 8; column++) {
                    float sum = 0.f;
                    for (int k = 0; k < K; k++) sum += a[row][k] * b[k][column];
                    lanes[row % 8 * 4 + column / 2].c[i][j][row / 8 * 2 + column % 2] += sum;
                }
        }
    }
};

struct Fma {  // true float32: no rounding of the operands
    static constexpr int STEPS = 4, B_CHUNKS = 2;
    BOTH static int chunk_of(int, int step) { return step; }
    BOTH static int column(int lane, int which) { return 2 * (lane % 4) + which; }
    BOTH static Chunk rounded(Chunk chunk) { return chunk; }
    BOTH static void multiply(float (&c)[4], const Chunk (&a)[2], const Chunk (&b)[2]) {
        UNROLL for (int k = 0; k < 4; k++)
            UNROLL for (int e = 0; e < 4; e++)
                c[e] = fmaf(float_of(a[e / 2].word[k]), float_of(b[e % 2].word[k]), c[e]);
    }
    template <class Registers> static void multiply_warp(Registers* lanes, int i, int j) {
        for (int lane = 0; lane < 32; lane++)
            multiply(lanes[lane].c[i][j], lanes[lane].a[i], lanes[lane].b[j]);
    }
};

// A warp's tile: MT x NT results of 16 x 8. Result e of a lane lies at (16 i + fragment_row, 8 j +
// fragment_column).
template <class Math, int MT, int NT> struct Fragments {
    float c[MT][NT][4];
    Chunk a[MT][2];
    Chunk b[NT][Math::B_CHUNKS];
    BOTH void clear() {
        UNROLL for (int i = 0; i < MT; i++)
            UNROLL for (int j = 0; j < NT; j++)
                UNROLL for (int e = 0; e < 4; e++) c[i][j][e] = 0.f;
    }
};
BOTH int fragment_row(int lane, int e) { return lane / 4 + 8 * (e / 2); }
BOTH int fragment_column(int lane, int e) { return 2 * (lane % 4) + e % 2; }

// -------------------------------------------------------------------------------------------------- machines
#ifdef __CUDACC__
template <class Body> struct GpuBlock {
    using T = typename Body::Element;
    T* shared;
    typename Body::Registers own;
    template <class F> BOTH void each(F f) {
#ifdef __CUDA_ARCH__
        f(int(threadIdx.x), own);
#endif
    }
    BOTH void sync() {
#ifdef __CUDA_ARCH__
        __syncthreads();
#endif
    }
    BOTH void sync_warp() {
#ifdef __CUDA_ARCH__
        __syncwarp();
#endif
    }
    BOTH T get(int, int i) const { return shared[i]; }
    BOTH void put(int, int i, T value) { shared[i] = value; }
    BOTH Chunk get_chunk(int, int i) const { return read_chunk(shared + i); }
    BOTH void put_chunk(int, int i, const Chunk& chunk) { write_chunk(shared + i, chunk); }
    template <class Math, int MT, int NT> BOTH void multiply() {
#ifdef __CUDA_ARCH__
        UNROLL for (int i = 0; i < MT; i++)
            UNROLL for (int j = 0; j < NT; j++) Math::multiply(own.c[i][j], own.a[i], own.b[j]);
#endif
    }
};

template <class Body>
__global__ void __launch_bounds__(Body::THREADS, 1) kernel(const typename Body::Args args) {
    extern __shared__ uint4 memory[];
    GpuBlock<Body> machine;
    machine.shared = reinterpret_cast<typename Body::Element*>(memory);
    Body::run(machine, args, int64_t(blockIdx.x));
}

struct Gpu {
    int device;
    cudaStream_t stream;
    template <class Body> int run(const typename Body::Args& args, int64_t blocks) const {
        if (blocks == 0) return 0;
        if (blocks > 0x7fffffff) return int(cudaErrorInvalidConfiguration);
        // this library has a CUDA runtime of its own, whose current device is not torch's
        cudaError_t code = cudaSetDevice(device);
        if (code == cudaSuccess && Body::SHARED > 48 * 1024)
            code =
                cudaFuncSetAttribute(kernel<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize, Body::SHARED);
        if (code != cudaSuccess) return int(code);
        kernel<Body><<<unsigned(blocks), Body::THREADS, Body::SHARED, stream>>>(args);
        return int(cudaGetLastError());
    }
};

extern "C" const char* arch_lab_error_name(int64_t code) { return cudaGetErrorName(cudaError_t(code)); }
extern "C" const char* arch_lab_error_text(int64_t code) { return cudaGetErrorString(cudaError_t(code)); }
#else
// what a host twin returns when two threads touch one place without a barrier between them
constexpr int MISSING_BARRIER = -1;

template <class Body> struct HostBlock {
    using T = typename Body::Element;
    // -2: several threads, several warps
    struct Touch { int thread = -1, warp = -1, block_epoch = -1, warp_epoch = -1; };
    std::vector<T> shared;
    std::vector<Touch> written, seen;
    std::vector<typename Body::Registers> registers;
    int block_epoch = 0, warp_epoch = 0;
    bool race = false;

    HostBlock()
        : shared(Body::SHARED / sizeof(T)),
          written(shared.size()),
          seen(shared.size()),
          registers(Body::THREADS) {
        memset(static_cast<void*>(shared.data()), 0xff, shared.size() * sizeof(T));
        memset(static_cast<void*>(registers.data()), 0xff, registers.size() * sizeof(registers[0]));
    }
    template <class F> void each(F f) {
        for (int thread = 0; thread < Body::THREADS; thread++) f(thread, registers[thread]);
    }
    void sync() { block_epoch++; }
    void sync_warp() { warp_epoch++; }
    // a barrier stands between that touch and this thread now
    bool apart(const Touch& before, int thread) const {
        if (before.block_epoch != block_epoch || before.thread == thread) return true;
        return before.warp == thread / 32 && before.warp_epoch != warp_epoch;
    }
    void touch(int thread, int i, bool writes) {
        Touch now{thread, thread / 32, block_epoch, warp_epoch};
        race |= !apart(written[i], thread) || (writes && !apart(seen[i], thread));
        if (writes) written[i] = now;
        else {
            if (seen[i].block_epoch == block_epoch) {
                if (seen[i].thread != thread) now.thread = -2;
                if (seen[i].warp != thread / 32) now.warp = -2;
            }
            seen[i] = now;
        }
    }
    T get(int thread, int i) { touch(thread, i, false); return shared.at(i); }
    void put(int thread, int i, T value) { touch(thread, i, true); shared.at(i) = value; }
    Chunk get_chunk(int thread, int i) {
        for (int e = 0; e < VECTOR<T>; e++) touch(thread, i + e, false);
        return read_chunk(&shared.at(i));
    }
    void put_chunk(int thread, int i, const Chunk& chunk) {
        for (int e = 0; e < VECTOR<T>; e++) touch(thread, i + e, true);
        write_chunk(&shared.at(i), chunk);
    }
    template <class Math, int MT, int NT> void multiply() {
        for (int warp = 0; warp < Body::THREADS / 32; warp++)
            for (int i = 0; i < MT; i++)
                for (int j = 0; j < NT; j++) Math::multiply_warp(&registers[warp * 32], i, j);
    }
};

struct Host {
    template <class Body> int run(const typename Body::Args& args, int64_t blocks) const {
        for (int64_t block = 0; block < blocks; block++) {
            HostBlock<Body> machine;
            Body::run(machine, args, block);
            if (machine.race) return MISSING_BARRIER;
        }
        return 0;
    }
};
#endif

// out[i] = sum over s of partial[s][i], always in the same order: two runs give the same bits, which atomics
// would not.
template <class T> struct Reduce {
    using Element = T;
    static constexpr int THREADS = 256, SHARED = 0;
    struct Registers {};
    struct Args {
        const float* partial;
        T* out;
        int64_t count, stride, splits;
    };
    template <class Machine> BOTH static void run(Machine& m, const Args& args, int64_t block) {
        m.each([&](int thread, Registers&) {
            int64_t i = block * THREADS + thread;
            if (i >= args.count) return;
            float sum = 0.f;
            for (int64_t s = 0; s < args.splits; s++) sum += args.partial[s * args.stride + i];
            args.out[i] = from_float<T>(sum);
        });
    }
    static int64_t blocks(int64_t count) { return (count + THREADS - 1) / THREADS; }
};
