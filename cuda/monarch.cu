// The learned order-2 Monarch product with equal digits, in one kernel, and its gradients.
//
// Legend: b block size, n = b², M rows (tokens), e bytes of a number; first F (b, b, b), second S (b, b, b).
//   h[m, k, q] = sum_p F[k, q, p] x[m, k b + p]          the contiguous stage: one block k is b neighbours
//   y[m, s b + l] = sum_r S[l, s, r] h[m, r, l]          the strided stage: block l takes every b-th value
// The reference is blocks/monarch/matrix.py with factors (F, S); b = 16, 32, 64.
//
// Tiling: a block of threads holds ROWS whole rows in shared memory and works in place. A warp owns block k:
// it reads x[:, k, :], and h[:, k, :] takes its place; after the one barrier a warp owns l: it gathers h[:,
// :, l] with stride b, and y[:, :, l] takes its place. That in-place change of owner is the permutation; the
// order of y in memory falls out, and rows leave 16 bytes at a time. Weights go from L2 straight to the
// fragments.
//   b     16   32   64      rows of a tile: 64, 32, 16 (float32, b = 64: 8), so that a tile takes at most 131
//         KB; 8 or 16 (b = 64) warps
// Backward: dx is the transposed product (strided stage with S^T, then contiguous with F^T; the caller
// transposes the 2 b³ weights), and gives away dh and a copy of g ordered [m, l, s] on its way; h is computed
// again, ordered [m, l, r]. Both factor gradients are then block-diagonal weight gradients (block_gemm.cuh):
// dF from (dh, x), dS from (g, h). Sums in float32 per block of threads, added in a fixed order: repeatable,
// no atomics. One pass over x and g would need all 2 b³ float32 sums on one SM: 32 KB at b = 16, all 256 KB
// of registers at b = 32, 2 MB at 64.
//
// Precision: h and dh are rounded to T, as two separate layers would; sums in float32. float32: true FMA,
// tf32 where the caller asks.
// Roof (derived, H200: 790 TFLOP/s bf16, 4.3 TB/s): 4 b³ FLOPs and 2 e n bytes per row forward; bf16 floors
// 0.24, 0.95, 3.83 ns per row for b = 16, 32, 64, all memory. Each tile reads the 2 b³ weights from L2: 2 e b³
// / ROWS bytes per row = 0.25, 4, 64 KB, so at b = 64 L2, not DRAM, is the limit: 512 KB for the 64 rows that
// would balance it do not fit one SM (a cluster of four would share them). Strided 2-byte accesses meet 4 to
// a bank. Backward floor 6 n bytes (bf16) a row in one pass, 20 n here with everything asked for.
// Not measured on a GPU. The host twins (NAME_host, at the end) run the same bodies and are tested against
// float64.
#include "block_gemm.cuh"

#ifndef ARCH_LAB_ELEMENT
#define ARCH_LAB_ELEMENT float  // or Bf16, Fp16: one library a number type
#endif
using T = ARCH_LAB_ELEMENT;
using Exact = std::conditional_t<std::is_same_v<T, float>, Fma, TensorCore<T>>;

template <class Math, int B, bool TRANSPOSED> struct Product {
    using Element = T;
    static constexpr int V = VECTOR<T>, N = B * B, ROWS = B == 16 ? 64 : B == 32 ? 32 : 32 / int(sizeof(T));
    static constexpr int MT = (ROWS + 15) / 16, NT = B / 8, WARPS = B == 64 && sizeof(T) == 2 ? 16 : 8,
                         THREADS = 32 * WARPS;
    static constexpr int STRIDE = N + V, SHARED = ROWS * STRIDE * int(sizeof(T)),
                         SPANS = (B + 4 * V - 1) / (4 * V);
    using Registers = Fragments<Math, MT, NT>;
    struct Args {
        // weights (block, output, input) of the two stages; null: the stage and all after it fall away
        const T *in, *contiguous, *strided;
        T *out, *middle;                     // null: not wanted
        T *in_by_column, *middle_by_column;  // copies ordered [row, l, r]
        int64_t rows;
    };

    static int64_t tiles(int64_t rows) { return (rows + ROWS - 1) / ROWS; }
    BOTH static int place(int row, int high, int low) { return row * STRIDE + high * B + low; }

    // V neighbours of the contraction, from V·chunk on: rows of the tile (left) and of a block's weights
    // (right)
    template <bool STRIDED, class Machine>
    BOTH static Chunk left(Machine& m, int thread, int row, int block, int chunk) {
        Chunk gathered = no_chunk();
        if (row >= ROWS || chunk * V >= B) return gathered;
        if constexpr (STRIDED) {
            UNROLL for (int e = 0; e < V; e++)
                set_element(gathered, e, m.get(thread, place(row, chunk * V + e, block)));
        } else {
            gathered = m.get_chunk(thread, place(row, block, chunk * V));
        }
        return Math::rounded(gathered);
    }
    BOTH static Chunk right(const T* weights, int column, int chunk) {
        return chunk * V < B ? Math::rounded(read_chunk(weights + column * B + chunk * V)) : no_chunk();
    }
    template <bool STRIDED, class Machine> BOTH static void stage(Machine& m, const T* weights) {
        // unrolled, the two outer loops hold the weights of several turns and spill
        ROLLED for (int turn = 0; turn < B / WARPS; turn++) {
            m.each([&](int, Registers& r) { r.clear(); });
            ROLLED for (int span = 0; span < SPANS; span++)
                UNROLL for (int part = 0; part < Math::STEPS; part++) {
                    m.each([&](int thread, Registers& r) {
                        const int lane = thread % 32, block = turn * WARPS + thread / 32,
                                  chunk = 4 * span + Math::chunk_of(lane, part);
                        UNROLL for (int j = 0; j < NT; j++)
                            UNROLL for (int h = 0; h < Math::B_CHUNKS; h++)
                                r.b[j][h] =
                                    right(weights + int64_t(block) * N, 8 * j + Math::column(lane, h), chunk);
                        UNROLL for (int i = 0; i < MT; i++)
                            UNROLL for (int h = 0; h < 2; h++)
                                r.a[i][h] = left<STRIDED>(m, thread, 16 * i + lane / 4 + 8 * h, block, chunk);
                    });
                    m.template multiply<Math, MT, NT>();
                }
            m.sync_warp();  // the warp has read all of its block; now the results take its place
            m.each([&](int thread, Registers& r) {
                const int lane = thread % 32, block = turn * WARPS + thread / 32;
                UNROLL for (int i = 0; i < MT; i++)
                    UNROLL for (int j = 0; j < NT; j++)
                        UNROLL for (int e = 0; e < 4; e++) {
                            const int row = 16 * i + fragment_row(lane, e),
                                      column = 8 * j + fragment_column(lane, e);
                            const int to = STRIDED ? place(row, column, block) : place(row, block, column);
                            if (row < ROWS) m.put(thread, to, from_float<T>(r.c[i][j][e]));
                        }
            });
        }
    }
    // the tile to memory as it stands, or with its two digits exchanged
    template <bool BY_COLUMN, class Machine>
    BOTH static void write(Machine& m, T* to, int64_t first_row, int64_t rows) {
        m.each([&](int thread, Registers&) {
            for (int id = thread; id < ROWS * N / V; id += THREADS) {
                const int row = id / (N / V), at = id % (N / V) * V;
                if (first_row + row >= rows) continue;
                Chunk chunk = no_chunk();
                if constexpr (BY_COLUMN) {
                    UNROLL for (int e = 0; e < V; e++)
                        set_element(chunk, e, m.get(thread, place(row, at % B + e, at / B)));
                } else {
                    chunk = m.get_chunk(thread, row * STRIDE + at);
                }
                store_chunk(to + (first_row + row) * N + at, chunk);
            }
        });
    }
    template <class Machine> BOTH static void run(Machine& m, const Args& args, int64_t index) {
        const int64_t first_row = index * ROWS;
        m.each([&](int thread, Registers&) {
            for (int id = thread; id < ROWS * N / V; id += THREADS) {
                const int row = id / (N / V), at = id % (N / V) * V;
                m.put_chunk(thread, row * STRIDE + at,
                            first_row + row < args.rows ? read_chunk(args.in + (first_row + row) * N + at)
                                                        : no_chunk());
            }
        });
        m.sync();
        if (args.in_by_column != nullptr) {
            write<true>(m, args.in_by_column, first_row, args.rows);
            m.sync();
        }
        if ((TRANSPOSED ? args.strided : args.contiguous) == nullptr) return;
        stage<TRANSPOSED>(m, TRANSPOSED ? args.strided : args.contiguous);
        m.sync();
        if (args.middle != nullptr) write<false>(m, args.middle, first_row, args.rows);
        if (args.middle_by_column != nullptr) write<true>(m, args.middle_by_column, first_row, args.rows);
        if ((TRANSPOSED ? args.contiguous : args.strided) == nullptr) return;
        if (args.middle != nullptr || args.middle_by_column != nullptr) m.sync();
        stage<!TRANSPOSED>(m, TRANSPOSED ? args.contiguous : args.strided);
        m.sync();
        if (args.out != nullptr) write<false>(m, args.out, first_row, args.rows);
    }
};

// one tile per block of the factor: 4 warps for 64 x 64, one for 32 x 32, one of 16 x 16
template <class Math, int B>
using Factor = BlockGemm<T, Math, B == 64 ? 2 : 1, B == 64 ? 2 : 1, B == 16 ? 1 : 2, B == 16 ? 2 : 4, false,
                         false, End::partial>;

// calls go with b as a constant; 1 is cudaErrorInvalidValue
template <class Go> int with_size(int64_t b, Go go) {
    if (b == 16) return go(std::integral_constant<int, 16>{});
    if (b == 32) return go(std::integral_constant<int, 32>{});
    return b == 64 ? go(std::integral_constant<int, 64>{}) : 1;
}

template <class Math, class Where>
int forward(const Where& where, const T* x, const T* first, const T* second, T* y, T* h_by_column,
            int64_t rows, int64_t b) {
    return with_size(b, [&](auto size) {
        using Body = Product<Math, decltype(size)::value, false>;
        return where.template run<Body>({x, first, second, y, nullptr, nullptr, h_by_column, rows},
                                        Body::tiles(rows));
    });
}
template <class Math, class Where>
int transposed(const Where& where, const T* gradient, const T* first_t, const T* second_t, T* dx, T* dh,
               T* g_by_column, int64_t rows, int64_t b) {
    return with_size(b, [&](auto size) {
        using Body = Product<Math, decltype(size)::value, true>;
        return where.template run<Body>({gradient, first_t, second_t, dx, dh, g_by_column, nullptr, rows},
                                        Body::tiles(rows));
    });
}
template <class Math, class Where>
int factor(const Where& where, const T* gradient, const T* x, T* out, float* workspace, int64_t rows,
           int64_t b, int64_t splits) {
    return with_size(b, [&](auto size) {
        using Gemm = Factor<Math, decltype(size)::value>;
        return weight_gradient<Gemm>(where, gradient, x, out, static_cast<T*>(nullptr), workspace, rows, b, b,
                                     b, splits);
    });
}

// Every function comes twice: NAME on a stream of a device (nvcc), NAME_host on this processor (any C++17
// compiler). 0 or an error code. A null pointer among the results: not wanted.
#define CHOOSE(CALL, ...) \
    (std::is_same_v<T, float> && tf32 ? CALL<TensorCore<T>>(__VA_ARGS__) : CALL<Exact>(__VA_ARGS__))
#define EXPORT(SUFFIX, WHERE, ...)                                                                           \
    extern "C" int monarch_product##SUFFIX(const T* x, const T* first, const T* second, T* y,                \
                                           T* h_by_column, int64_t rows, int64_t b,                          \
                                           int64_t tf32 __VA_ARGS__) {                                       \
        return CHOOSE(forward, WHERE, x, first, second, y, h_by_column, rows, b);                            \
    }                                                                                                        \
    extern "C" int monarch_transposed##SUFFIX(const T* gradient, const T* first_t, const T* second_t, T* dx, \
                                              T* dh, T* g_by_column, int64_t rows, int64_t b,                \
                                              int64_t tf32 __VA_ARGS__) {                                    \
        return CHOOSE(transposed, WHERE, gradient, first_t, second_t, dx, dh, g_by_column, rows, b);         \
    }                                                                                                        \
    extern "C" int monarch_factor##SUFFIX(const T* gradient, const T* x, T* out, float* workspace,           \
                                          int64_t rows, int64_t b, int64_t splits,                           \
                                          int64_t tf32 __VA_ARGS__) {                                        \
        return CHOOSE(factor, WHERE, gradient, x, out, workspace, rows, b, splits);                          \
    }
#define COMMA ,
extern "C" int monarch_shared_bytes(int64_t b) {  // of one block of threads
    return with_size(b, [](auto size) { return Product<Exact, decltype(size)::value, false>::SHARED; });
}
#ifdef __CUDACC__
EXPORT(, (Gpu{int(device), cudaStream_t(stream)}), COMMA int64_t device COMMA void* stream)
#else
EXPORT(_host, Host{})
#endif
