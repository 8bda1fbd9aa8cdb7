// One tiled product for every block of a block-diagonal map: out[m, n] = sum_k a(m, k) b(k, n), and the three
// uses of it.
//
//   use      m     k     n    a              b             ends in
//   forward  row   p     q    x, along k     w, along k    + bias, or gelu(gate) * value (blocks j, j + half)
//   dx       row   q     p    g, along k     w, along n
//   dweight  q     row   p    g, along m     x, along n    float32 partial sums of a range of rows, and of g
//                                                         alone: the bias gradient
//
// "along" names the dimension whose elements are neighbours in memory. A tile is kept in shared memory as it
// lies in global memory, so that both are read 16 bytes at a time; an operand that does not lie along k is
// gathered element by element into the fragments. There, contraction indices V apart meet in one bank, so
// chunk j of row k stands at j ^ (k / V).
// Tile: (WARPS_M MT 16) x (WARPS_N NT 8) x SPAN, SPAN = 64 bytes; two buffers; the next tile travels through
// registers while one is multiplied.
// Edges: what lies outside is read as zero and never written. 16-byte accesses where base and row length
// allow, single elements otherwise.
#pragma once

#include "tile.cuh"

enum class End { store, gated, partial };

// rows of `inner` neighbours, `stride` apart; block j starts `block` further
template <class T> struct Operand {
    const T* data;
    int64_t stride, block;
    bool vector;
};
template <class T> Operand<T> operand(const T* data, int64_t stride, int64_t block) {
    return {data, stride, block, aligned(data) && stride % VECTOR<T> == 0 && block % VECTOR<T> == 0};
}

template <class T, class Math, int WARPS_M, int WARPS_N, int MT, int NT, bool A_ALONG_K, bool B_ALONG_K,
          End END>
struct BlockGemm {
    using Element = T;
    static constexpr int V = VECTOR<T>, SPAN = 4 * V, TILE_M = WARPS_M * MT * 16, TILE_N = WARPS_N * NT * 8,
                         THREADS = 32 * WARPS_M * WARPS_N;
    static constexpr int A_SIZE = TILE_M * SPAN, B_SIZE = TILE_N * SPAN, BUFFER = A_SIZE + B_SIZE,
                         OUT_STRIDE = TILE_N + V;
    static constexpr int OUT_SIZE = END == End::partial ? 0 : TILE_M * OUT_STRIDE;
    static constexpr int SHARED = (2 * BUFFER > OUT_SIZE ? 2 * BUFFER : OUT_SIZE) * int(sizeof(T));
    static constexpr int A_CHUNKS = (A_SIZE / V + THREADS - 1) / THREADS,
                         B_CHUNKS = (B_SIZE / V + THREADS - 1) / THREADS;
    static_assert(SHARED <= 48 * 1024, "what every device gives without being asked");
    static_assert(THREADS >= TILE_M || END != End::partial, "one thread sums one column of the gradient");

    struct Args {
        Operand<T> a, b;
        T* out;                // (m, blocks · n), unless END is partial
        const T* bias;         // (blocks · n,) or null
        float* partial;        // splits x (blocks · m · n), `partial_stride` apart
        float* column_sums;    // in the same array behind the products: (blocks · m), or null
        int64_t out_stride, partial_stride, m, n, k, blocks, half, split_rows;
        bool out_vector;
        BOTH int64_t tiles_m() const { return (m + TILE_M - 1) / TILE_M; }
        BOTH int64_t tiles_n() const { return (n + TILE_N - 1) / TILE_N; }
    };
    struct Registers : Fragments<Math, MT, NT> {
        Chunk next_a[A_CHUNKS], next_b[B_CHUNKS];
        float gate[END == End::gated ? MT : 1][END == End::gated ? NT : 1][4];
        float column_sum;
    };

    template <bool ALONG_K, int SIDE> BOTH static int place(int outer, int chunk) {
        constexpr int INNER = ALONG_K ? SPAN : SIDE, CHUNKS = INNER / V, MASK = CHUNKS < 4 ? CHUNKS - 1 : 3;
        return outer * INNER + V * (ALONG_K ? chunk : chunk ^ (outer / V & MASK));
    }
    // the tile's chunks of this thread, from (outer0, inner0) on; the operand ends at (outer_end, inner_end)
    template <bool ALONG_K, int SIDE, int COUNT>
    BOTH static void fetch(int thread, Chunk (&to)[COUNT], const Operand<T>& from, int64_t block,
                           int64_t side0, int64_t side_end, int64_t k0, int64_t k_end) {
        constexpr int INNER = ALONG_K ? SPAN : SIDE, PER_ROW = INNER / V;
        const int64_t outer_end = ALONG_K ? side_end : k_end, inner_end = ALONG_K ? k_end : side_end;
        UNROLL for (int c = 0; c < COUNT; c++) {
            const int id = thread + c * THREADS;
            const int64_t outer = (ALONG_K ? side0 : k0) + id / PER_ROW,
                          inner = (ALONG_K ? k0 : side0) + id % PER_ROW * V;
            to[c] = no_chunk();
            if (id >= SIDE * SPAN / V || outer >= outer_end) continue;
            const T* row = from.data + block * from.block + outer * from.stride + inner;
            if (from.vector) {
                if (inner < inner_end) to[c] = read_chunk(row);
            } else {
                UNROLL for (int e = 0; e < V; e++)
                    if (inner + e < inner_end) set_element(to[c], e, row[e]);
            }
        }
    }
    template <bool ALONG_K, int SIDE, int COUNT, class Machine>
    BOTH static void keep(Machine& m, int thread, int base, const Chunk (&from)[COUNT]) {
        constexpr int PER_ROW = (ALONG_K ? SPAN : SIDE) / V;
        UNROLL for (int c = 0; c < COUNT; c++) {
            const int id = thread + c * THREADS;
            if (id < SIDE * SPAN / V)
                m.put_chunk(thread, base + place<ALONG_K, SIDE>(id / PER_ROW, id % PER_ROW), from[c]);
        }
    }
    // V neighbours along k of one row (column) of the tile
    template <bool ALONG_K, int SIDE, class Machine>
    BOTH static Chunk along_k(Machine& m, int thread, int base, int side, int chunk) {
        if constexpr (ALONG_K)
            return Math::rounded(m.get_chunk(thread, base + place<true, SIDE>(side, chunk)));
        else {
            Chunk gathered = no_chunk();
            UNROLL for (int e = 0; e < V; e++)
                set_element(gathered, e,
                            m.get(thread, base + place<false, SIDE>(chunk * V + e, side / V) + side % V));
            return Math::rounded(gathered);
        }
    }

    template <class Machine> BOTH static void run(Machine& m, const Args& args, int64_t index) {
        // neighbours in the grid share rows: all columns of a row tile are read while they are in L2
        const int64_t tiles_n = args.tiles_n(), tiles_m = args.tiles_m();
        const int64_t n0 = index % tiles_n * TILE_N;
        int64_t rest = index / tiles_n, m0 = 0;
        if constexpr (END == End::partial) m0 = rest % tiles_m * TILE_M, rest /= tiles_m;
        const int64_t splits_or_blocks = END == End::gated ? args.half : args.blocks;
        const int64_t block = rest % splits_or_blocks;
        rest /= splits_or_blocks;
        if constexpr (END != End::partial) m0 = rest * TILE_M;
        const int64_t k_begin = END == End::partial ? rest * args.split_rows : 0;
        const int64_t k_stop = k_begin + args.split_rows;
        const int64_t k_end = END == End::partial && k_stop < args.k ? k_stop : args.k;
        const int64_t steps = k_end > k_begin ? (k_end - k_begin + SPAN - 1) / SPAN : 0;
        const bool sums = END == End::partial && args.column_sums != nullptr && n0 == 0;

        m.each([&](int, Registers& r) { r.clear(), r.column_sum = 0.f; });
        UNROLL for (int pass = 0; pass < (END == End::gated ? 2 : 1); pass++) {
            const int64_t source = block + (pass ? args.half : 0);
            auto fetch_both = [&](int thread, Registers& r, int64_t k0) {
                fetch<A_ALONG_K, TILE_M>(thread, r.next_a, args.a, source, m0, args.m, k0, k_end);
                fetch<B_ALONG_K, TILE_N>(thread, r.next_b, args.b, source, n0, args.n, k0, k_end);
            };
            auto keep_both = [&](int thread, Registers& r, int buffer) {
                keep<A_ALONG_K, TILE_M>(m, thread, buffer * BUFFER, r.next_a);
                keep<B_ALONG_K, TILE_N>(m, thread, buffer * BUFFER + A_SIZE, r.next_b);
            };
            m.each(
                [&](int thread, Registers& r) { fetch_both(thread, r, k_begin), keep_both(thread, r, 0); });
            m.sync();
            ROLLED for (int64_t step = 0; step < steps; step++) {
                const int base = int(step % 2) * BUFFER;
                const bool more = step + 1 < steps;
                if (more)
                    m.each([&](int thread, Registers& r) {
                        fetch_both(thread, r, k_begin + (step + 1) * SPAN);
                    });
                UNROLL for (int part = 0; part < Math::STEPS; part++) {
                    m.each([&](int thread, Registers& r) {
                        const int lane = thread % 32, warp = thread / 32, chunk = Math::chunk_of(lane, part);
                        const int row0 = warp / WARPS_N * MT * 16 + lane / 4,
                                  column0 = warp % WARPS_N * NT * 8;
                        UNROLL for (int i = 0; i < MT; i++)
                            UNROLL for (int h = 0; h < 2; h++)
                                r.a[i][h] =
                                    along_k<A_ALONG_K, TILE_M>(m, thread, base, row0 + 16 * i + 8 * h, chunk);
                        UNROLL for (int j = 0; j < NT; j++)
                            UNROLL for (int h = 0; h < Math::B_CHUNKS; h++)
                                r.b[j][h] = along_k<B_ALONG_K, TILE_N>(
                                    m, thread, base + A_SIZE, column0 + 8 * j + Math::column(lane, h), chunk);
                    });
                    m.template multiply<Math, MT, NT>();
                }
                if constexpr (END == End::partial) {
                    if (sums) m.each([&](int thread, Registers& r) {
                        if (thread < TILE_M)
                            for (int k = 0; k < SPAN; k++)
                                r.column_sum += to_float(
                                    m.get(thread, base + place<false, TILE_M>(k, thread / V) + thread % V));
                    });
                }
                if (more) m.each([&](int thread, Registers& r) { keep_both(thread, r, int(step + 1) % 2); });
                m.sync();
            }
            if constexpr (END == End::gated) {
                if (pass == 0) m.each([&](int, Registers& r) {
                    UNROLL for (int i = 0; i < MT; i++)
                        UNROLL for (int j = 0; j < NT; j++)
                            UNROLL for (int e = 0; e < 4; e++) r.gate[i][j][e] = gelu(r.c[i][j][e]);
                    r.clear();
                });
            }
        }

        if constexpr (END == End::partial) {
            m.each([&](int thread, Registers& r) {
                float* sums_of_split = args.partial + rest * args.partial_stride;
                each_result(thread, [&](int i, int j, int e, int row, int column) {
                    if (m0 + row < args.m && n0 + column < args.n)
                        sums_of_split[(block * args.m + m0 + row) * args.n + n0 + column] = r.c[i][j][e];
                });
                if (sums && thread < TILE_M && m0 + thread < args.m)
                    args.column_sums[rest * args.partial_stride + block * args.m + m0 + thread] =
                        r.column_sum;
            });
            return;
        }
        // through shared memory, so that rows leave 16 bytes at a time
        m.each([&](int thread, Registers& r) {
            each_result(thread, [&](int i, int j, int e, int row, int column) {
                float value = r.c[i][j][e];
                if constexpr (END == End::gated) value *= r.gate[i][j][e];
                if (args.bias != nullptr && n0 + column < args.n)
                    value += to_float(args.bias[block * args.n + n0 + column]);
                m.put(thread, row * OUT_STRIDE + column, from_float<T>(value));
            });
        });
        m.sync();
        m.each([&](int thread, Registers&) {
            for (int id = thread; id < TILE_M * TILE_N / V; id += THREADS) {
                const int row = id / (TILE_N / V), column = id % (TILE_N / V) * V;
                if (m0 + row >= args.m || n0 + column >= args.n) continue;
                T* to = args.out + (m0 + row) * args.out_stride + block * args.n + n0 + column;
                const Chunk chunk = m.get_chunk(thread, row * OUT_STRIDE + column);
                if (args.out_vector) store_chunk(to, chunk);
                else UNROLL for (int e = 0; e < V; e++)
                    if (n0 + column + e < args.n) to[e] = element<T>(chunk, e);
            }
        });
    }
    template <class F> BOTH static void each_result(int thread, F f) {
        const int lane = thread % 32, warp = thread / 32;
        UNROLL for (int i = 0; i < MT; i++)
            UNROLL for (int j = 0; j < NT; j++)
                UNROLL for (int e = 0; e < 4; e++)
                    f(i, j, e, warp / WARPS_N * MT * 16 + 16 * i + fragment_row(lane, e),
                      warp % WARPS_N * NT * 8 + 8 * j + fragment_column(lane, e));
    }
};

// dweight[j, q, p] = sum over rows of g[row, jQ + q] x[row, jP + p]; column sums of g as dbias unless that is
// null. workspace: splits x (blocks Q P + blocks Q) floats. Rows are dealt to `splits` blocks, whose partial
// sums are added in a fixed order.
template <class Gemm, class Where, class T>
int weight_gradient(const Where& where, const T* gradient, const T* x, T* dweight, T* dbias, float* workspace,
                    int64_t rows, int64_t blocks, int64_t q, int64_t p, int64_t splits) {
    const int64_t weights = blocks * q * p, stride = weights + blocks * q;
    typename Gemm::Args args{};
    args.a = operand(gradient, blocks * q, q);
    args.b = operand(x, blocks * p, p);
    args.partial = workspace;
    args.column_sums = dbias == nullptr ? nullptr : workspace + weights;
    args.partial_stride = stride;
    args.m = q, args.n = p, args.k = rows, args.blocks = blocks;
    args.split_rows = (rows + splits - 1) / splits;
    const typename Reduce<T>::Args weight_sums{workspace, dweight, weights, stride, splits};
    const typename Reduce<T>::Args bias_sums{workspace + weights, dbias, blocks * q, stride, splits};
    int code = where.template run<Gemm>(args, splits * blocks * args.tiles_m() * args.tiles_n());
    if (code == 0) code = where.template run<Reduce<T>>(weight_sums, Reduce<T>::blocks(weights));
    if (code == 0 && dbias != nullptr)
        code = where.template run<Reduce<T>>(bias_sums, Reduce<T>::blocks(blocks * q));
    return code;
}
