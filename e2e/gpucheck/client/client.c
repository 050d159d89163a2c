/* A CUDA client that says what it sees, by the driver API alone: libcuda is opened
 * at run time, so that neither nvcc nor CUDA headers are needed to build it.
 *
 * Prints key=value lines, then "ready", holds its context until its stdin ends, and
 * exits. With an argument it first allocates device memory in steps of so many MiB
 * until that fails and prints how much it got; with a negative one it keeps the GPU
 * busy until its stdin ends.
 *
 * Function signatures: CUDA driver API reference, sections 6.2 to 6.13. */
#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

typedef int (*fn)();

static void *lib;

static fn find(const char *name)
{
    fn f = (fn)dlsym(lib, name);
    if (!f) {
        printf("error=libcuda has no %s\n", name);
        exit(3);
    }
    return f;
}

static void check(const char *what, int code)
{
    if (code) {
        printf("error=%s failed with CUDA error %d\n", what, code);
        exit(3);
    }
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    lib = dlopen("libcuda.so.1", RTLD_NOW);
    if (!lib) {
        printf("error=%s\n", dlerror());
        return 3;
    }
    int count = 0, device = 0, sms = 0, version = 0;
    char name[128] = "";
    void *context = NULL;
    size_t free_bytes = 0, total_bytes = 0;
    check("cuInit", find("cuInit")(0));
    check("cuDriverGetVersion", find("cuDriverGetVersion")(&version));
    check("cuDeviceGetCount", find("cuDeviceGetCount")(&count));
    check("cuDeviceGet", find("cuDeviceGet")(&device, 0));
    check("cuDeviceGetName", find("cuDeviceGetName")(name, (int)sizeof name, device));
    check("cuCtxCreate", find("cuCtxCreate_v2")(&context, 0u, device));
    /* 16 is CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT. */
    check("cuDeviceGetAttribute", find("cuDeviceGetAttribute")(&sms, 16, device));
    check("cuMemGetInfo", find("cuMemGetInfo_v2")(&free_bytes, &total_bytes));
    printf("devices=%d\nname=%s\ncuda=%d.%d\nsms=%d\nfree_mib=%zu\ntotal_mib=%zu\n", count, name, version / 1000,
           version % 1000 / 10, sms, free_bytes >> 20, total_bytes >> 20);
    if (argc > 1 && atol(argv[1]) < 0) {
        unsigned long long block;
        size_t size = (size_t)256 << 20;
        struct pollfd input = {.fd = 0, .events = POLLIN};
        check("cuMemAlloc", find("cuMemAlloc_v2")(&block, size));
        printf("ready\n");
        while (poll(&input, 1, 0) == 0) {
            for (int i = 0; i < 64; i++)
                check("cuMemsetD8", find("cuMemsetD8_v2")(block, i, size));
            check("cuCtxSynchronize", find("cuCtxSynchronize")());
        }
        return 0;
    }
    if (argc > 1) {
        size_t step = (size_t)atol(argv[1]) << 20, got = 0;
        fn alloc = find("cuMemAlloc_v2");
        unsigned long long address;
        while (step > 0 && alloc(&address, step) == 0)
            got += step;
        printf("allocated_mib=%zu\n", got >> 20);
    }
    printf("ready\n");
    while (getchar() != EOF)
        ;
    return 0;
}
