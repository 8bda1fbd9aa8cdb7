// Block-diagonal linear map: y[m, kQ + q] = sum_p w[k, q, p] x[m, kP + p] (+ bias), its gated form, and both
// gradients.
//
// Legend: M rows (tokens), K blocks, P inputs and Q outputs of a block, e bytes of a number. The reference is
// blocks/monarch/block_diagonal.py.
// Gated (the map up of blocks/monarch/glu.py, K even): y[m, jQ + q] = gelu(h[m, jQ + q]) h[m, (K/2 + j)Q +
// q], h = x W^T never stored; exact GELU.
//
// Tiling: block_gemm.cuh, 128 x 64 results by 8 warps of 32 x 32, 64 bytes of the contraction at a time, two
// buffers. Any M, K, P, Q.
// Precision: 16-bit numbers through mma.sync, sums in float32, one rounding at the end (gate and value are
// not rounded in between, as separate layers would). float32: true FMA; tf32 only where the caller asks for
// it.
// Roof (derived, H200: 790 TFLOP/s bf16, 4.3 TB/s): 2 K P Q FLOPs and e K (P + Q) bytes per row forward; K = 4,
// bf16: 768 -> 768 is 0.72 ns per row (memory), 768 -> 3072 1.80 ns (memory), 2048 -> 2048 2.65 ns (compute).
// Backward: twice the FLOPs, and 2 e K (P + Q) + e K (P + Q) bytes here. Why two kernels backward: dx
// contracts over outputs, dweight over rows. One pass over the gradient needs all Q x P float32 sums of a
// block on one SM beside the tiles: 147 KB of its 256 KB of registers at 768/4 = 192, all of them at 256. The
// second reading is the price: 1.07 -> 1.43 ns per row at 768 -> 768 (derived). The bias gradient costs no
// reading of its own: dweight sums the tiles it holds.
// Not measured on a GPU. The host twins (NAME_host, at the end) run the same bodies and are tested against
// float64.
#include "block_gemm.cuh"

#ifndef ARCH_LAB_ELEMENT
#define ARCH_LAB_ELEMENT float  // or Bf16, Fp16: one library a number type
#endif
using T = ARCH_LAB_ELEMENT;
using Exact = std::conditional_t<std::is_same_v<T, float>, Fma, TensorCore<T>>;

template <class Math> using Forward = BlockGemm<T, Math, 4, 2, 2, 4, true, true, End::store>;
template <class Math> using Gated = BlockGemm<T, Math, 4, 2, 2, 4, true, true, End::gated>;
template <class Math> using Backward = BlockGemm<T, Math, 4, 2, 2, 4, true, false, End::store>;
template <class Math> using Weight = BlockGemm<T, Math, 4, 2, 2, 4, false, false, End::partial>;

// out[m, n] = sum_k a[m, k] b[k, n] in every block; a and out are rows of numbers, b is the weight read one
// way or the other
template <class Gemm, class Where>
int rows_product(const Where& where, const T* a, Operand<T> b, const T* bias, T* out, int64_t rows,
                 int64_t blocks, int64_t k, int64_t n, int64_t out_blocks) {
    typename Gemm::Args args{};
    args.a = operand(a, blocks * k, k);
    args.b = b;
    args.out = out;
    args.bias = bias;
    args.out_stride = out_blocks * n;
    args.out_vector = aligned(out) && n % VECTOR<T> == 0;
    args.m = rows, args.n = n, args.k = k, args.blocks = blocks, args.half = blocks / 2;
    return where.template run<Gemm>(args, args.tiles_m() * out_blocks * args.tiles_n());
}

#define SIZES int64_t rows, int64_t k, int64_t q, int64_t p
template <class Math, class Where>
int linear(const Where& where, const T* x, const T* weight, const T* bias, T* y, SIZES) {
    return rows_product<Forward<Math>>(where, x, operand(weight, p, q * p), bias, y, rows, k, p, q, k);
}
template <class Math, class Where> int gated(const Where& where, const T* x, const T* weight, T* y, SIZES) {
    return rows_product<Gated<Math>>(where, x, operand(weight, p, q * p), nullptr, y, rows, k, p, q, k / 2);
}
template <class Math, class Where>
int dx(const Where& where, const T* gradient, const T* weight, T* out, SIZES) {
    return rows_product<Backward<Math>>(where, gradient, operand(weight, p, q * p), nullptr, out, rows, k, q,
                                        p, k);
}
template <class Math, class Where>
int dweight(const Where& where, const T* gradient, const T* x, T* out, T* dbias, float* workspace, SIZES,
            int64_t splits) {
    return weight_gradient<Weight<Math>>(where, gradient, x, out, dbias, workspace, rows, k, q, p, splits);
}

// Every function comes twice: NAME on a stream of a device (nvcc), NAME_host on this processor (any C++17
// compiler). 0 or an error code.
#define CHOOSE(CALL, ...) \
    (std::is_same_v<T, float> && tf32 ? CALL<TensorCore<T>>(__VA_ARGS__) : CALL<Exact>(__VA_ARGS__))
#define EXPORT(SUFFIX, WHERE, ...)                                                                        \
    extern "C" int block_diagonal_linear##SUFFIX(const T* x, const T* weight, const T* bias, T* y, SIZES, \
                                                 int64_t tf32 __VA_ARGS__) {                              \
        return CHOOSE(linear, WHERE, x, weight, bias, y, rows, k, q, p);                                  \
    }                                                                                                     \
    extern "C" int block_diagonal_gated##SUFFIX(const T* x, const T* weight, T* y, SIZES,                 \
                                                int64_t tf32 __VA_ARGS__) {                               \
        return CHOOSE(gated, WHERE, x, weight, y, rows, k, q, p);                                         \
    }                                                                                                     \
    extern "C" int block_diagonal_dx##SUFFIX(const T* gradient, const T* weight, T* out, SIZES,           \
                                             int64_t tf32 __VA_ARGS__) {                                  \
        return CHOOSE(dx, WHERE, gradient, weight, out, rows, k, q, p);                                   \
    }                                                                                                     \
    extern "C" int block_diagonal_dweight##SUFFIX(const T* gradient, const T* x, T* out, T* dbias,        \
                                                  float* workspace, SIZES, int64_t splits,                \
                                                  int64_t tf32 __VA_ARGS__) {                             \
        return CHOOSE(dweight, WHERE, gradient, x, out, dbias, workspace, rows, k, q, p, splits);         \
    }
#define COMMA ,
#ifdef __CUDACC__
EXPORT(, (Gpu{int(device), cudaStream_t(stream)}), COMMA int64_t device COMMA void* stream)
#else
EXPORT(_host, Host{})
#endif
