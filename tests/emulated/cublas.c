/* cuBLAS's matrix products, by the definition: C = alpha op(A) op(B) + beta C, with each matrix column by column in memory.
   build.py adds a function for every other name that CuPy's module asks for; those say that they are not there. */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

enum { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { FLOAT32 = 0, FLOAT64 = 1 };  // cudaDataType

/* What Python sees */

int multiplying = 1;  // 0: count products and don't compute them
long long products;

/* op(A) is (m, k), op(B) is (k, n), and C is (m, n); where beta is 0, C is not read. */

#define DEFINE_MULTIPLY(NAME, T)                                                                                               \
    static void NAME(bool turn_a, bool turn_b, int m, int n, int k, T alpha, const T *a, int lda, const T *b, int ldb, T beta, \
                     T *c, int ldc) {                                                                                          \
        T *sums = malloc(sizeof(T) * (m + 1));                                                                                 \
        T *turned = turn_a ? malloc(sizeof(T) * ((size_t)m * k + 1)) : NULL; /* so that the inner loop reads in order */       \
        for (int p = 0; turn_a && p < k; p++)                                                                                  \
            for (int i = 0; i < m; i++) turned[(size_t)p * m + i] = a[(size_t)i * lda + p];                                    \
        for (int j = 0; j < n; j++) {                                                                                          \
            for (int i = 0; i < m; i++) sums[i] = 0;                                                                           \
            for (int p = 0; p < k; p++) {                                                                                      \
                const T *column = turn_a ? turned + (size_t)p * m : a + (size_t)p * lda;                                       \
                T factor = turn_b ? b[(size_t)p * ldb + j] : b[(size_t)j * ldb + p];                                           \
                for (int i = 0; i < m; i++) sums[i] += column[i] * factor;                                                     \
            }                                                                                                                  \
            T *result = c + (size_t)j * ldc;                                                                                   \
            for (int i = 0; i < m; i++) result[i] = alpha * sums[i] + (beta != 0 ? beta * result[i] : 0);                      \
        }                                                                                                                      \
        free(turned);                                                                                                          \
        free(sums);                                                                                                            \
    }

DEFINE_MULTIPLY(multiply_float, float)
DEFINE_MULTIPLY(multiply_double, double)

/* Count a call, or many products of one; returns what is wrong with the arguments. */
static int check(int turn_a, int turn_b, int m, int n, int k, int lda, int ldb, int ldc, int count) {
    int rows_a = turn_a ? k : m, rows_b = turn_b ? n : k;
    bool fits = lda >= rows_a && ldb >= rows_b && ldc >= m && lda > 0 && ldb > 0 && ldc > 0;
    products++;
    return m < 0 || n < 0 || k < 0 || count < 0 || !fits ? INVALID_VALUE : SUCCESS;
}

/* One product after the other, with so many entries between the matrices of one and those of the next. */
int cublasGemmStridedBatchedEx(void *handle, int turn_a, int turn_b, int m, int n, int k, const void *alpha, const void *a,
                               int type_a, int lda, long long step_a, const void *b, int type_b, int ldb, long long step_b,
                               const void *beta, void *c, int type_c, int ldc, long long step_c, int count, int compute_type,
                               int algorithm) {
    int wrong = check(turn_a, turn_b, m, n, k, lda, ldb, ldc, count);
    if (type_a != type_b || type_a != type_c || (type_a != FLOAT32 && type_a != FLOAT64)) wrong = NOT_SUPPORTED;
    if (wrong || !multiplying) return wrong;
    for (int i = 0; i < count; i++)
        if (type_a == FLOAT32)
            multiply_float(turn_a, turn_b, m, n, k, *(const float *)alpha, (const float *)a + i * step_a, lda,
                           (const float *)b + i * step_b, ldb, *(const float *)beta, (float *)c + i * step_c, ldc);
        else
            multiply_double(turn_a, turn_b, m, n, k, *(const double *)alpha, (const double *)a + i * step_a, lda,
                            (const double *)b + i * step_b, ldb, *(const double *)beta, (double *)c + i * step_c, ldc);
    return SUCCESS;
}

int cublasGemmEx(void *handle, int turn_a, int turn_b, int m, int n, int k, const void *alpha, const void *a, int type_a, int lda,
                 const void *b, int type_b, int ldb, const void *beta, void *c, int type_c, int ldc, int compute_type,
                 int algorithm) {
    return cublasGemmStridedBatchedEx(handle, turn_a, turn_b, m, n, k, alpha, a, type_a, lda, 0, b, type_b, ldb, 0, beta, c,
                                      type_c, ldc, 0, 1, compute_type, algorithm);
}

#define DEFINE_BATCHED(NAME, MULTIPLY, T)                                                                                      \
    int NAME(void *handle, int turn_a, int turn_b, int m, int n, int k, const T *alpha, const T **a, int lda, const T **b,     \
             int ldb, const T *beta, T **c, int ldc, int count) {                                                              \
        int wrong = check(turn_a, turn_b, m, n, k, lda, ldb, ldc, count);                                                      \
        if (wrong || !multiplying) return wrong;                                                                               \
        for (int i = 0; i < count; i++)                                                                                        \
            MULTIPLY(turn_a, turn_b, m, n, k, *alpha, a[i], lda, b[i], ldb, *beta, c[i], ldc);                                 \
        return SUCCESS;                                                                                                        \
    }

DEFINE_BATCHED(cublasSgemmBatched, multiply_float, float)
DEFINE_BATCHED(cublasDgemmBatched, multiply_double, double)

int cublasCreate_v2(void **handle) { *handle = &products; return SUCCESS; }
int cublasDestroy_v2(void *handle) { return SUCCESS; }
int cublasGetStream_v2(void *handle, void **stream) { *stream = NULL; return SUCCESS; }
int cublasSetStream_v2(void *handle, void *stream) { return SUCCESS; }
int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return SUCCESS; }
int cublasSetMathMode(void *handle, int mode) { return SUCCESS; }
