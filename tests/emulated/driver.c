/* CUDA's driver, as far as CuPy calls it. A module is a shared object that holds kernels, compiled by build.py; its image is the
   name of its file. A launch runs all threads of the grid before it returns, one block after the other, on the host's thread.

   Threads of a block that wait for each other at barriers are coroutines: each runs up to its next barrier, then the next has its
   turn. So they always run in the same order, and a race between them isn't seen. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, INVALID_IMAGE = 200, NOT_FOUND = 500 };
enum { MOST_THREADS = 1024, MOST_KERNELS = 1 << 16, LONGEST_NAME = 256, STACK_SIZE = 1 << 15 };

typedef struct { unsigned x, y, z; } dim3;

/* What kernels see */

dim3 threadIdx, blockIdx, blockDim, gridDim;

/* What Python sees */

int computing = 1;  // 0: count launches and don't run them
int kernel_count;
char kernel_names[MOST_KERNELS][LONGEST_NAME];
long long kernel_launches[MOST_KERNELS];

/* A block of threads

   A thread keeps its stack for the next block, and takes its turns by jumping: much faster than swapcontext, which asks the
   system each time. */

typedef struct { jmp_buf point; bool finished, has_stack; } Thread;

static Thread threads[MOST_THREADS];
static unsigned current;
static jmp_buf scheduler;
static void (*body)(void **);
static void **body_arguments;

static void leave_thread(void) {
    if (!_setjmp(threads[current].point)) _longjmp(scheduler, 1);
}

void __syncthreads(void) { leave_thread(); }

static void run_thread(void) {
    for (;;) {
        body(body_arguments);
        threads[current].finished = true;
        leave_thread();
    }
}

static void enter_thread(void) {
    if (_setjmp(scheduler)) return;
    if (threads[current].has_stack) _longjmp(threads[current].point, 1);
    threads[current].has_stack = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack = (stack_t){.ss_sp = malloc(STACK_SIZE), .ss_size = STACK_SIZE};
    makecontext(&context, run_thread, 0);
    setcontext(&context);
}

static void run_block(unsigned count) {
    for (unsigned i = 0; i < count; i++) threads[i].finished = false;
    for (unsigned left = count; left;) {
        left = 0;
        for (current = 0; current < count; current++) {
            if (threads[current].finished) continue;
            threadIdx = (dim3){current % blockDim.x, current / blockDim.x % blockDim.y, current / (blockDim.x * blockDim.y)};
            enter_thread();
            left += !threads[current].finished;
        }
    }
}

static void run_grid(void) {
    for (unsigned z = 0; z < gridDim.z; z++)
        for (unsigned y = 0; y < gridDim.y; y++)
            for (unsigned x = 0; x < gridDim.x; x++) {
                blockIdx = (dim3){x, y, z};
                run_block(blockDim.x * blockDim.y * blockDim.z);
            }
}

/* Modules and kernels */

typedef struct {
    void (*call)(void **);  // the kernel, as one thread; its arguments are pointers to their values
    bool any_grid;          // each thread takes every so many-th entry, whatever the grid: one thread can take them all
    int number;
} Kernel;

int cuModuleLoadData(void **module, const void *image) {
    *module = dlopen(image, RTLD_NOW | RTLD_LOCAL);
    if (!*module) fprintf(stderr, "emulated GPU: %s\n", dlerror());
    return *module ? SUCCESS : INVALID_IMAGE;
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    char symbol[LONGEST_NAME + 16];
    snprintf(symbol, sizeof symbol, "call_%s", name);
    void *call = dlsym(module, symbol);
    if (!call || kernel_count == MOST_KERNELS) return NOT_FOUND;
    Kernel *kernel = malloc(sizeof *kernel);
    *kernel = (Kernel){call, *(const bool *)dlsym(module, "any_grid"), kernel_count};
    snprintf(kernel_names[kernel_count++], LONGEST_NAME, "%s", name);
    *function = kernel;
    return SUCCESS;
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared_bytes, void *stream, void **arguments, void **extra) {
    unsigned long long count = (unsigned long long)block_x * block_y * block_z;
    if (!grid_x || !grid_y || !grid_z || grid_y > 65535 || grid_z > 65535 || !count || count > MOST_THREADS) return INVALID_VALUE;
    Kernel *kernel = function;
    kernel_launches[kernel->number]++;
    if (!computing) return SUCCESS;
    if (kernel->any_grid) {
        gridDim = blockDim = (dim3){1, 1, 1};
        threadIdx = blockIdx = (dim3){0, 0, 0};
        kernel->call(arguments);
    } else {
        gridDim = (dim3){grid_x, grid_y, grid_z};
        blockDim = (dim3){block_x, block_y, block_z};
        body = kernel->call;
        body_arguments = arguments;
        run_grid();
    }
    return SUCCESS;
}

int cuModuleUnload(void *module) { return SUCCESS; }

/* The rest of what CuPy asks for */

int cuCtxGetCurrent(void **context) { *context = &computing; return SUCCESS; }
int cuCtxSetCurrent(void *context) { return SUCCESS; }
int cuCtxGetDevice(int *device) { *device = 0; return SUCCESS; }
int cuFuncGetAttribute(int *value, int attribute, void *function) { *value = MOST_THREADS; return SUCCESS; }
int cuGetErrorName(int error, const char **name) { *name = "CUDA_ERROR_OF_THE_EMULATED_GPU"; return SUCCESS; }

int cuGetErrorString(int error, const char **text) {
    *text = error == INVALID_VALUE ? "invalid argument" : error == NOT_FOUND ? "named symbol not found" : "invalid kernel image";
    return SUCCESS;
}

int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int block_size, size_t shared_bytes) {
    *blocks = 8;
    return SUCCESS;
}
