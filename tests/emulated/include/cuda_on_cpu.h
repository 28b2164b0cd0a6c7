// What a kernel in CUDA C++ uses beyond C++, for g++; driver.c has the rest. CuPy's own headers come after it, unchanged.

#pragma once

#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static  // blocks run one after the other
#define __forceinline__ inline
#define __noinline__
#define __restrict__
#define __launch_bounds__(...)
#define __CUDACC_VER_MAJOR__ 12  // CuPy's headers take cuda_fp16.h then

struct dim3 { unsigned x, y, z; };

extern "C" {
extern dim3 threadIdx, blockIdx, blockDim, gridDim;
void __syncthreads();
}
inline void __syncwarp() {}
static const int warpSize = 32;

using std::abs;
using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;
using std::signbit;

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <class To, class From> To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline int __float_as_int(float x) { return same_bits<int>(x); }
inline float __int_as_float(int x) { return same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return same_bits<double>(x); }

inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float rsqrt(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }

// Nothing runs at the same time, so nothing is in the way of a change.
#define DEFINE_ATOMICS(T)                                                                    \
    inline T atomicAdd(T *place, T value) { T old = *place; *place += value; return old; }   \
    inline T atomicExch(T *place, T value) { T old = *place; *place = value; return old; }   \
    inline T atomicCAS(T *place, T expected, T value) {                                      \
        T old = *place;                                                                      \
        if (old == expected) *place = value;                                                 \
        return old;                                                                          \
    }
#define DEFINE_INTEGER_ATOMICS(T)                                                            \
    DEFINE_ATOMICS(T)                                                                        \
    inline T atomicMax(T *place, T value) { T old = *place; *place = max(old, value); return old; } \
    inline T atomicMin(T *place, T value) { T old = *place; *place = min(old, value); return old; }
DEFINE_INTEGER_ATOMICS(int)
DEFINE_INTEGER_ATOMICS(unsigned)
DEFINE_INTEGER_ATOMICS(unsigned long long)
DEFINE_ATOMICS(float)
DEFINE_ATOMICS(double)

// Call a kernel as the driver does, with pointers to its arguments' values.
template <class... T, size_t... i> void call_with(void (*kernel)(T...), void **arguments, std::index_sequence<i...>) {
    kernel(*static_cast<std::remove_const_t<std::remove_reference_t<T>> *>(arguments[i])...);
}
template <class... T> void call_kernel(void (*kernel)(T...), void **arguments) {
    call_with(kernel, arguments, std::index_sequence_for<T...>{});
}
#define DEFINE_CALL(NAME) extern "C" void call_##NAME(void **arguments) { call_kernel(&NAME, arguments); }

#include <cupy/complex.cuh>
#include <cupy/carray.cuh>
#include <cupy/atomics.cuh>
#include <cupy/math_constants.h>
