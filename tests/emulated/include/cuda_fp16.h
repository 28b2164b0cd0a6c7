// CUDA's half-precision numbers, as far as CuPy's float16 asks for them.

#pragma once

struct __half_raw { unsigned short x; };

struct half {
    _Float16 value;
    half() = default;
    half(float v) : value(v) {}
    explicit half(const __half_raw &raw) : value(same_bits<_Float16>(raw.x)) {}
    explicit half(bool v) : value(v) {}
    explicit half(double v) : value(v) {}
    explicit half(int v) : value(v) {}
    explicit half(unsigned v) : value(v) {}
    explicit half(long long v) : value(v) {}
    explicit half(unsigned long long v) : value(v) {}
    operator float() const { return value; }
    operator __half_raw() const { return {same_bits<unsigned short>(value)}; }
};
inline unsigned short __half_as_ushort(half v) { return same_bits<unsigned short>(v.value); }
inline half __ushort_as_half(unsigned short bits) { return half(__half_raw{bits}); }
inline float __half2float(half v) { return v; }
inline half __float2half_rn(float v) { return v; }
