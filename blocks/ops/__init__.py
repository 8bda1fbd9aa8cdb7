"""Operations with several implementations: plain torch, a tuned processor path, Triton and CUDA kernels."""
