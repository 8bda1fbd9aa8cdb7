// float, Bf16 and Fp16 on both sides of the compiler, and chunks of 16 bytes of them.
//
// BOTH marks what nvcc compiles for host and device; a plain C++ compiler, which builds the host twins alone,
// sees an inline function. Rounding is to nearest, ties to even, on both.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

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

// --------------------------------------------------------------------------------------------------- numbers
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
    uint32_t sign = uint32_t(value.bits & 0x8000u) << 16, exponent = (value.bits >> 10) & 31u,
             fraction = value.bits & 1023u;
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
    // subnormal: a multiple of 2^-24
    if (size < 6.103515625e-5f) return {uint16_t(sign | uint32_t(lrintf(size * 16777216.f)))};
    uint32_t rounded = (bits & 0x7fffffffu) + 0xfffu + ((bits >> 13) & 1u);
    return {uint16_t(sign | ((rounded - (112u << 23)) >> 13))};
#endif
}

BOTH uint32_t raw(float value) { return bits_of(value); }
BOTH uint32_t raw(Bf16 value) { return value.bits; }
BOTH uint32_t raw(Fp16 value) { return value.bits; }
template <class T> BOTH T from_raw(uint32_t bits) { return T{uint16_t(bits)}; }
template <> BOTH float from_raw<float>(uint32_t bits) { return float_of(bits); }

// the exact one, as torch's default
BOTH float gelu(float x) { return 0.5f * x * (1.f + erff(x * 0.70710678118654752f)); }

// ---------------------------------------------------------------------------------------------------- chunks
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
    // by hand: nvcc splits a plain store of 16 bytes into four under a condition, and __stwb makes it a
    // strong one
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
                 "r"(chunk.word[0]), "r"(chunk.word[1]), "r"(chunk.word[2]), "r"(chunk.word[3])
                 : "memory");
#else
    memcpy(to, &chunk, 16);
#endif
}
inline bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }
