// What the kernels of this folder share: number types, 16-byte chunks, warp products, and two machines that run one kernel body.
//
// A kernel is a struct with `static run(machine, args, block)`. Its per-thread code stands in `machine.each([&](int thread, Registers& r) {...})`;
// barriers are `machine.sync()` and `machine.sync_warp()`; shared memory goes through get/put; a warp product is `machine.multiply()`.
//   GpuBlock   each() runs the calling thread, sync() is __syncthreads(), multiply() is mma.sync (or FMA): the kernel.
//   HostBlock  each() loops over all threads of the block, multiply() gathers the 32 lanes' fragments as the PTX manual lays them out, and
//              every access to shared memory is checked for a missing barrier: the host twin. Same tiles, masks, index maps and order of phases.
// What the twin cannot show: that hardware agrees with the manual, and speed. Shared memory and registers start as NaN there.
//
// Fragments. A lane l = 4 g + c of a warp holds, for a 16 x 8 tile of the result, rows g, g + 8 and columns 2c, 2c + 1 (PTX ISA, mma.m16n8k16).
// Operands are read in chunks of 16 bytes, V = 16 / sizeof(T) elements along the contraction: lane c of a quad takes [cV, (c + 1) V) of a span of 4 V.
// mma wants k = 2c, 2c+1, 2c+8, 2c+9 there instead; a sum does not care in which order both operands number their terms, so words 0, 1 of the
// chunks feed one mma and words 2, 3 the next, for 16-bit numbers (k16) and tf32 (k8) alike.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define BOTH __host__ __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#else  // a plain C++ compiler builds the host twins alone
#define BOTH inline
#define UNROLL
#define ROLLED
#endif

// ---------------------------------------------------------------------------------------------------------------- numbers
struct Bf16 { uint16_t bits; };
struct Fp16 { uint16_t bits; };

BOTH uint32_t bits_of(float value) { uint32_t bits; memcpy(&bits, &value, 4); return bits; }
BOTH float float_of(uint32_t bits) { float value; memcpy(&value, &bits, 4); return value; }

BOTH float to_float(float value) { return value; }
BOTH float to_float(Bf16 value) { return float_of(uint32_t(value.bits) << 16); }
BOTH float to_float(Fp16 value) {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half(value.bits));
#else
    uint32_t sign = uint32_t(value.bits & 0x8000u) << 16, exponent = (value.bits >> 10) & 31u, fraction = value.bits & 1023u;
    if (exponent == 31u) return float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0u) return float_of(sign | bits_of(ldexpf(float(fraction), -24)));
    return float_of(sign | (exponent + 112u) << 23 | fraction << 13);
#endif
}

template <class T> BOTH T from_float(float value);
template <> BOTH float from_float<float>(float value) { return value; }
template <> BOTH Bf16 from_float<Bf16>(float value) {  // to nearest, ties to even
#ifdef __CUDA_ARCH__
    return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
    uint32_t bits = bits_of(value);
    if (value != value) return {0x7fff};
    return {uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
}
template <> BOTH Fp16 from_float<Fp16>(float value) {
#ifdef __CUDA_ARCH__
    return {__half_as_ushort(__float2half_rn(value))};
#else
    uint32_t bits = bits_of(value), sign = (bits >> 16) & 0x8000u;
    float size = fabsf(value);
    if (value != value) return {0x7fff};
    if (size >= 65520.f) return {uint16_t(sign | 0x7c00u)};
    if (size < 6.103515625e-5f) return {uint16_t(sign | uint32_t(lrintf(size * 16777216.f)))};  // subnormal: a multiple of 2^-24
    uint32_t rounded = (bits & 0x7fffffffu) + 0xfffu + ((bits >> 13) & 1u);
    return {uint16_t(sign | ((rounded - (112u << 23)) >> 13))};
#endif
}

BOTH uint32_t raw(float value) { return bits_of(value); }
BOTH uint32_t raw(Bf16 value) { return value.bits; }
BOTH uint32_t raw(Fp16 value) { return value.bits; }
template <class T> BOTH T from_raw(uint32_t bits) { return T{uint16_t(bits)}; }
template <> BOTH float from_raw<float>(uint32_t bits) { return float_of(bits); }

BOTH float gelu(float x) { return 0.5f * x * (1.f + erff(x * 0.70710678118654752f)); }  // the exact one, as torch's default

// ----------------------------------------------------------------------------------------------------------------- chunks
struct alignas(16) Chunk { uint32_t word[4]; };
template <class T> constexpr int VECTOR = 16 / int(sizeof(T));  // elements of a chunk

BOTH Chunk no_chunk() { return {{0u, 0u, 0u, 0u}}; }
template <class T> BOTH T element(const Chunk& chunk, int i) {
    if constexpr (sizeof(T) == 4) return from_raw<T>(chunk.word[i]);
    else return from_raw<T>(chunk.word[i / 2] >> (16 * (i % 2)));
}
template <class T> BOTH void set_element(Chunk& chunk, int i, T value) {  // onto zero bits
    if constexpr (sizeof(T) == 4) chunk.word[i] = raw(value);
    else chunk.word[i / 2] |= raw(value) << (16 * (i % 2));
}
template <class T> BOTH Chunk read_chunk(const T* from) {  // `from` on a 16-byte boundary
#ifdef __CUDA_ARCH__
    uint4 v = *reinterpret_cast<const uint4*>(from);
    return {{v.x, v.y, v.z, v.w}};
#else
    Chunk chunk;
    memcpy(&chunk, from, 16);
    return chunk;
#endif
}
template <class T> BOTH void write_chunk(T* to, const Chunk& chunk) {
#ifdef __CUDA_ARCH__
    *reinterpret_cast<uint4*>(to) = make_uint4(chunk.word[0], chunk.word[1], chunk.word[2], chunk.word[3]);
#else
    memcpy(to, &chunk, 16);
#endif
}
template <class T> BOTH void store_chunk(T* to, const Chunk& chunk) {  // to global memory
#ifdef __CUDA_ARCH__
    // by hand: nvcc splits a plain store of 16 bytes into four under a condition, and __stwb makes it a strong one
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(chunk.word[0]), "r"(chunk.word[1]),
                 "r"(chunk.word[2]), "r"(chunk.word[3])
                 : "memory");
#else
    memcpy(to, &chunk, 16);
#endif
}
inline bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// ---------------------------------------------------------------------------------------------------------- warp products
// STEPS rounds cover one span of 4 V contraction indices. In each, a lane holds chunk `chunk_of` of rows g, g + 8 of the left operand and of
// `B_CHUNKS` columns of the right one.
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
#define ARCH_LAB_MMA(KIND)                                                                                                          \
    asm volatile("mma.sync.aligned." KIND " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                        \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                                   \
                 : "r"(a[0].word[s]), "r"(a[1].word[s]), "r"(a[0].word[s + 1]), "r"(a[1].word[s + 1]), "r"(b[0].word[s]), "r"(b[0].word[s + 1]))
        UNROLL for (int s = 0; s < 4; s += 2) {
            if constexpr (std::is_same_v<T, Bf16>) ARCH_LAB_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
            else if constexpr (std::is_same_v<T, Fp16>) ARCH_LAB_MMA("m16n8k16.row.col.f32.f16.f16.f32");
            else ARCH_LAB_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
        }
#undef ARCH_LAB_MMA
    }
#endif
    // The same product from the registers of 32 lanes, laid out as in the PTX ISA, "Matrix Fragments for mma.m16n8k16 / m16n8k8".
    template <class Registers> static void multiply_warp(Registers* lanes, int i, int j) {
        constexpr int PACK = 4 / int(sizeof(T)), HALF = K / 2;  // numbers in a register, contraction indices before its second half
        for (int s = 0; s < 4; s += 2) {
            float a[16][K], b[K][8];
            for (int k = 0; k < K; k++) {
                int lane = (k % HALF) / PACK, word = s + k / HALF, shift = 32 / PACK * (k % PACK);
                for (int row = 0; row < 16; row++) a[row][k] = to_float(from_raw<T>(lanes[row % 8 * 4 + lane].a[i][row / 8].word[word] >> shift));
                for (int column = 0; column < 8; column++) b[k][column] = to_float(from_raw<T>(lanes[column * 4 + lane].b[j][0].word[word] >> shift));
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
            UNROLL for (int e = 0; e < 4; e++) c[e] = fmaf(float_of(a[e / 2].word[k]), float_of(b[e % 2].word[k]), c[e]);
    }
    template <class Registers> static void multiply_warp(Registers* lanes, int i, int j) {
        for (int lane = 0; lane < 32; lane++) multiply(lanes[lane].c[i][j], lanes[lane].a[i], lanes[lane].b[j]);
    }
};

// A warp's tile: MT x NT results of 16 x 8. Result e of a lane lies at (16 i + fragment_row, 8 j + fragment_column).
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

// --------------------------------------------------------------------------------------------------------------- machines
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

template <class Body> __global__ void __launch_bounds__(Body::THREADS, 1) kernel(const typename Body::Args args) {
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
            code = cudaFuncSetAttribute(kernel<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize, Body::SHARED);
        if (code != cudaSuccess) return int(code);
        kernel<Body><<<unsigned(blocks), Body::THREADS, Body::SHARED, stream>>>(args);
        return int(cudaGetLastError());
    }
};

extern "C" const char* arch_lab_error_name(int64_t code) { return cudaGetErrorName(cudaError_t(code)); }
extern "C" const char* arch_lab_error_text(int64_t code) { return cudaGetErrorString(cudaError_t(code)); }
#else
constexpr int MISSING_BARRIER = -1;  // what a host twin returns when two threads touch one place without a barrier between them

template <class Body> struct HostBlock {
    using T = typename Body::Element;
    struct Touch { int thread = -1, warp = -1, block_epoch = -1, warp_epoch = -1; };  // -2: several threads, several warps
    std::vector<T> shared;
    std::vector<Touch> written, seen;
    std::vector<typename Body::Registers> registers;
    int block_epoch = 0, warp_epoch = 0;
    bool race = false;

    HostBlock() : shared(Body::SHARED / sizeof(T)), written(shared.size()), seen(shared.size()), registers(Body::THREADS) {
        memset(static_cast<void*>(shared.data()), 0xff, shared.size() * sizeof(T));
        memset(static_cast<void*>(registers.data()), 0xff, registers.size() * sizeof(registers[0]));
    }
    template <class F> void each(F f) {
        for (int thread = 0; thread < Body::THREADS; thread++) f(thread, registers[thread]);
    }
    void sync() { block_epoch++; }
    void sync_warp() { warp_epoch++; }
    bool apart(const Touch& before, int thread) const {  // a barrier stands between that touch and this thread now
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

// out[i] = sum over s of partial[s][i], always in the same order: two runs give the same bits, which atomics would not.
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
