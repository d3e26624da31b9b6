/* A stand-in for NVIDIA's libcudart.so.13 and libcuda.so.1: the runtime as torch asks for it, and
 * the driver as tests/gpu/program.py does. The cards are those of the scenario (nvml.c, asked as
 * torch would), a card's memory is this machine's, and what a process holds of it is written down
 * beside the scenario (accounts.h), where NVML and every other process see it and where it goes
 * with its process. Copies are done at once and in order. There are no kernels: kernels.py
 * computes instead, and says what a graph that is captured consists of. A kernel that is launched
 * all the same fails loudly. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <cuda_runtime_api.h>

#include "accounts.h"

enum { MOST_BLOCKS = 1 << 16 };
#define CONTEXT_BYTES (200ULL << 20) /* without kernels; real ones take 100 to 500 MiB with them */

typedef struct { char name[256], uuid[96], bus[64]; u64 total; int number, major, minor; void *handle; } Card; /* number: NVML's */

static Card cards[MAX_DEVICES];
static int card_count, contexts[MAX_DEVICES];
static int broken; /* a sticky error: the context computes no more */
static int unstarted; /* what kept CUDA from starting in this process, for good */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static __thread int current;
static __thread cudaError_t last;

/* NVML, as the driver's library shows it */
static struct {
    int (*init)(void), (*count)(unsigned *), (*handle)(unsigned, void **);
    int (*name)(void *, char *, unsigned), (*uuid)(void *, char *, unsigned);
    int (*memory)(void *, u64 *), (*pci)(void *, void *), (*capability)(void *, int *, int *);
    int (*fault)(const char *, int);
} nvml;

static void look_for_cards(void) {
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    nvml.init = (int (*)(void))dlsym(library, "nvmlInit_v2");
    nvml.count = (int (*)(unsigned *))dlsym(library, "nvmlDeviceGetCount_v2");
    nvml.handle = (int (*)(unsigned, void **))dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
    nvml.name = (int (*)(void *, char *, unsigned))dlsym(library, "nvmlDeviceGetName");
    nvml.uuid = (int (*)(void *, char *, unsigned))dlsym(library, "nvmlDeviceGetUUID");
    nvml.memory = (int (*)(void *, u64 *))dlsym(library, "nvmlDeviceGetMemoryInfo");
    nvml.pci = (int (*)(void *, void *))dlsym(library, "nvmlDeviceGetPciInfo_v3");
    nvml.capability =
        (int (*)(void *, int *, int *))dlsym(library, "nvmlDeviceGetCudaComputeCapability");
    nvml.fault = (int (*)(const char *, int))dlsym(library, "standin_fault");
    unsigned count = 0;
    if (nvml.init() || nvml.count(&count)) return;
    if ((unstarted = nvml.fault("cuda start", -1))) return;
    const char *visible = getenv("CUDA_VISIBLE_DEVICES"); /* here: full UUIDs alone */
    for (unsigned i = 0; i < count && card_count < MAX_DEVICES; i++) {
        Card *card = &cards[card_count];
        struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci;
        u64 memory[3];
        if (nvml.handle(i, &card->handle) || nvml.memory(card->handle, memory)) continue;
        card->total = memory[0];
        card->number = (int)i;
        nvml.name(card->handle, card->name, sizeof card->name);
        nvml.uuid(card->handle, card->uuid, sizeof card->uuid);
        if (visible && !strstr(visible, card->uuid)) continue;
        nvml.capability(card->handle, &card->major, &card->minor);
        if (!nvml.pci(card->handle, &pci)) snprintf(card->bus, sizeof card->bus, "%s", pci.bus_id);
        card_count++;
    }
}

static int count(void) {
    pthread_once(&once, look_for_cards);
    return card_count;
}

static u64 free_of(int card) { /* what NVML says now: the scenario, less all accounts */
    u64 memory[3] = {0, 0, 0};
    nvml.memory(cards[card].handle, memory);
    return memory[1];
}

static cudaError_t said(cudaError_t error) {
    if (error != cudaSuccess) last = error;
    return error;
}

static Holder *mine;
static int accounts_file;

/* One process at a time, and one of its threads. */
static void lock_accounts(int on) {
    static pthread_mutex_t threads = PTHREAD_MUTEX_INITIALIZER;
    if (on) pthread_mutex_lock(&threads);
    if (!mine) {
        Holder *rows = accounts(1, &accounts_file);
        if (!rows) abort();
        accounts_lock(accounts_file, ALL_ROWS, F_WRLCK, F_OFD_SETLKW);
        for (int i = 0; !mine && i < MOST_HOLDERS; i++)
            if (accounts_lock(accounts_file, i, F_WRLCK, F_OFD_SETLK) >= 0) mine = &rows[i];
        if (!mine) abort();
        memset(mine, 0, sizeof *mine);
        mine->pid = getpid();
    } else accounts_lock(accounts_file, ALL_ROWS, on ? F_WRLCK : F_UNLCK, F_OFD_SETLKW);
    if (!on) pthread_mutex_unlock(&threads);
}

/* Takes bytes of a card for this process; 0 where there are not as many. */
static int take(int card, u64 bytes) {
    int taken = 0;
    lock_accounts(1);
    if (free_of(card) >= bytes) {
        mine->bytes[cards[card].number] += bytes;
        taken = 1;
    }
    lock_accounts(0);
    return taken;
}
static void give(int card, u64 bytes) {
    lock_accounts(1);
    mine->bytes[cards[card].number] -= bytes;
    lock_accounts(0);
}

/* What almost every call begins with: the current card's context. The scenario's fault "cuda"
 * breaks it for good, "cuda context" keeps it from being made, "cuda start" all of them. */
static cudaError_t enter(void) {
    if (!count()) return said(cudaErrorNoDevice);
    int fault = contexts[current] ? nvml.fault("cuda", cards[current].number) : 0;
    if (fault) broken = fault;
    if (broken) return said((cudaError_t)broken);
    pthread_mutex_lock(&lock);
    cudaError_t error = cudaSuccess;
    if (!contexts[current]) {
        error = (cudaError_t)nvml.fault("cuda context", cards[current].number);
        if (!error && !take(current, CONTEXT_BYTES)) error = cudaErrorMemoryAllocation;
        contexts[current] = !error;
    }
    pthread_mutex_unlock(&lock);
    return said(error);
}
#define ENTER() do { cudaError_t error_ = enter(); if (error_) return error_; } while (0)

/* Blocks of memory, a card's (its number) or the host's (-1) */
typedef struct { char *at; size_t size; int card; } Block;
static Block blocks[MOST_BLOCKS];
static int block_count;

static void *new_block(size_t size, int card) {
    char *at = mmap(NULL, size ? size : 1, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return NULL;
    pthread_mutex_lock(&lock);
    if (block_count == MOST_BLOCKS) abort();
    blocks[block_count++] = (Block){at, size, card};
    pthread_mutex_unlock(&lock);
    return at;
}
static Block take_block(void *at) {
    Block found = {NULL, 0, -2};
    pthread_mutex_lock(&lock);
    for (int i = 0; i < block_count; i++)
        if (blocks[i].at == at) {
            found = blocks[i];
            blocks[i] = blocks[--block_count];
            break;
        }
    pthread_mutex_unlock(&lock);
    return found;
}
static Block block_of(const void *at) {
    Block found = {NULL, 0, -2};
    pthread_mutex_lock(&lock);
    for (int i = 0; i < block_count; i++)
        if ((const char *)at >= blocks[i].at && (const char *)at < blocks[i].at + blocks[i].size)
            found = blocks[i];
    pthread_mutex_unlock(&lock);
    return found;
}

/* Graphs: a list of copies and of what kernels.py computed */
typedef struct { void *to; const void *from; size_t size; int value, computed; } Node;
typedef struct CUgraph_st { int count, room, spoiled; Node *nodes; } Graph;
typedef struct CUstream_st { int card, priority; Graph *captured; int mode; pthread_t by; } Stream;
typedef struct CUevent_st { struct timespec at; } Event;

enum { MOST_CAPTURES = 64 };
static Stream *captures[MOST_CAPTURES];
static __thread int exchanged = cudaStreamCaptureModeGlobal;
static void (*compute)(int number, int forget);

/* The stream that this thread captures, if any */
static Stream *capturing(void) {
    for (int i = 0; i < MOST_CAPTURES; i++)
        if (captures[i] && pthread_equal(captures[i]->by, pthread_self())) return captures[i];
    return NULL;
}
static Stream *stream_of(cudaStream_t stream) {
    return (size_t)stream > 2 ? (Stream *)stream : NULL; /* 0 to 2 are the default ones */
}
static void add(Graph *graph, Node node) {
    if (graph->count == graph->room)
        graph->nodes = realloc(graph->nodes, sizeof node * (size_t)(graph->room = 2 * graph->room + 64));
    graph->nodes[graph->count++] = node;
}
static void run(const Node *node) {
    if (node->computed >= 0) compute(node->computed, 0);
    else if (node->from) memmove(node->to, node->from, node->size);
    else memset(node->to, node->value, node->size);
}

/* A call that a capture does not bear: it fails and spoils it. As the driver has it, a thread's
 * own captures unless relaxed, and those of others that are global while this thread is, too. */
static cudaError_t unsafe(void) {
    cudaError_t error = cudaSuccess;
    if (exchanged == cudaStreamCaptureModeRelaxed) return error;
    for (int i = 0; i < MOST_CAPTURES; i++) {
        Stream *s = captures[i];
        if (!s || s->mode == cudaStreamCaptureModeRelaxed) continue;
        int mine = pthread_equal(s->by, pthread_self());
        int global = s->mode == cudaStreamCaptureModeGlobal && exchanged == cudaStreamCaptureModeGlobal;
        if (mine || global) {
            s->captured->spoiled = 1;
            error = said(cudaErrorStreamCaptureUnsupported);
        }
    }
    return error;
}
/* Waiting for a whole card while any thread captures there */
static cudaError_t whole_card(void) {
    for (int i = 0; i < MOST_CAPTURES; i++)
        if (captures[i] && captures[i]->card == current) {
            captures[i]->captured->spoiled = 1;
            return said(cudaErrorStreamCaptureUnsupported);
        }
    return cudaSuccess;
}

static cudaError_t copied(Node node, cudaStream_t stream) {
    ENTER();
    Stream *s = stream_of(stream);
    if (s && s->captured) {
        add(s->captured, node);
        return cudaSuccess;
    }
    run(&node);
    return cudaSuccess;
}

/* What kernels.py calls */
int standin_broken(void) { enter(); return broken; }
void standin_on_compute(void (*with)(int, int)) { compute = with; }
int standin_load(u64 bytes) { /* kernels come to a card with their first use */
    cudaError_t error = enter();
    return error ? (int)error : take(current, bytes) ? 0 : (int)cudaErrorMemoryAllocation;
}
int standin_capturing(void) { return capturing() != NULL; }
void standin_computes(int number) { add(capturing()->captured, (Node){NULL, NULL, 0, 0, number}); }
void standin_break(int error) { broken = error; }

/* Devices */
cudaError_t cudaGetDeviceCount(int *to) {
    *to = count();
    return said(unstarted ? (cudaError_t)unstarted : *to ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaDriverGetVersion(int *to) { *to = 13000; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *to) { *to = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaGetDevice(int *to) { *to = current; return cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= count()) return said(cudaErrorInvalidDevice);
    current = device;
    return enter(); /* since CUDA 12 */
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *to, int device) {
    if (device < 0 || device >= count()) return said(cudaErrorInvalidDevice);
    const Card *card = &cards[device];
    memset(to, 0, sizeof *to);
    snprintf(to->name, sizeof to->name, "%s", card->name);
    const char *digits = card->uuid;
    if (!strncmp(digits, "GPU-", 4)) digits += 4;
    for (int i = 0; i < 16; i++) {
        unsigned byte = 0;
        while (*digits == '-') digits++;
        sscanf(digits, "%2x", &byte);
        digits += 2;
        to->uuid.bytes[i] = (char)byte;
    }
    unsigned domain = 0, bus = 0, number = 0;
    sscanf(card->bus, "%x:%x:%x", &domain, &bus, &number);
    to->pciDomainID = (int)domain; to->pciBusID = (int)bus; to->pciDeviceID = (int)number;
    to->totalGlobalMem = card->total;
    to->major = card->major; to->minor = card->minor;
    to->multiProcessorCount = 46;
    to->warpSize = 32;
    to->maxThreadsPerBlock = 1024; to->maxThreadsPerMultiProcessor = 1536;
    to->sharedMemPerBlock = 48 << 10; to->sharedMemPerBlockOptin = 99 << 10;
    to->sharedMemPerMultiprocessor = 100 << 10;
    to->regsPerMultiprocessor = to->regsPerBlock = 65536;
    to->l2CacheSize = 36 << 20;
    for (int i = 0; i < 3; i++) { to->maxThreadsDim[i] = 1024; to->maxGridSize[i] = 65535; }
    to->unifiedAddressing = to->canMapHostMemory = to->concurrentKernels = 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *to, enum cudaDeviceAttr what, int device) {
    (void)what;
    if (device < 0 || device >= count()) return said(cudaErrorInvalidDevice);
    *to = 0;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *to, int room, int device) {
    if (device < 0 || device >= count()) return said(cudaErrorInvalidDevice);
    snprintf(to, (size_t)room, "%s", cards[device].bus);
    return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int *to, int from, int other) {
    (void)from; (void)other;
    *to = 0;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0; *greatest = -5;
    return enter();
}
cudaError_t cudaDeviceSynchronize(void) { ENTER(); return whole_card(); }
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    ENTER();
    *free = free_of(current);
    *total = cards[current].total;
    return cudaSuccess;
}

/* Errors */
cudaError_t cudaGetLastError(void) {
    cudaError_t error = broken ? (cudaError_t)broken : last;
    last = cudaSuccess;
    return error;
}
cudaError_t cudaPeekAtLastError(void) { return broken ? (cudaError_t)broken : last; }
const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorAssert: return "cudaErrorAssert";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorDevicesUnavailable: return "cudaErrorDevicesUnavailable";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    default: return "cudaErrorUnknown";
    }
}
const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorAssert: return "device-side assert triggered";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorDevicesUnavailable: return "CUDA-capable device(s) is/are busy or unavailable";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
        return "operation failed due to a previous error during capture";
    default: return "unknown error (of the stand-in)";
    }
}

/* Memory */
cudaError_t cudaMalloc(void **to, size_t size) {
    ENTER();
    cudaError_t error = unsafe();
    if (error) return error;
    if (!take(current, size)) return said(cudaErrorMemoryAllocation);
    *to = new_block(size, current);
    return cudaSuccess;
}
cudaError_t cudaFree(void *at) {
    if (!at) return enter();
    cudaError_t error = unsafe();
    if (error) return error;
    Block block = take_block(at);
    if (!block.at) return said(cudaErrorInvalidValue);
    munmap(block.at, block.size ? block.size : 1);
    give(block.card, block.size);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **to, size_t size, unsigned flags) {
    (void)flags;
    ENTER();
    cudaError_t error = unsafe();
    if (error) return error;
    *to = new_block(size, -1);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **to, size_t size) { return cudaHostAlloc(to, size, 0); }
cudaError_t cudaFreeHost(void *at) {
    Block block = take_block(at);
    if (block.at) munmap(block.at, block.size ? block.size : 1);
    return said(block.at ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *to, const void *at) {
    memset(to, 0, sizeof *to);
    Block block = block_of(at);
    to->type = !block.at ? cudaMemoryTypeUnregistered
        : block.card < 0 ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    to->device = block.card < 0 ? -2 : block.card;
    to->devicePointer = block.at ? (void *)at : NULL;
    to->hostPointer = block.card == -1 ? (void *)at : NULL;
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    (void)kind;
    return copied((Node){to, from, size, 0, -1}, stream);
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    cudaError_t error = unsafe();
    return error ? error : cudaMemcpyAsync(to, from, size, kind, NULL);
}
cudaError_t cudaMemcpyPeerAsync(void *to, int there, const void *from, int here, size_t size,
                                cudaStream_t stream) {
    (void)there; (void)here;
    return copied((Node){to, from, size, 0, -1}, stream);
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t size, cudaStream_t stream) {
    return copied((Node){to, NULL, size, value, -1}, stream);
}
cudaError_t cudaMemset(void *to, int value, size_t size) {
    return cudaMemsetAsync(to, value, size, NULL);
}

/* Streams */
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *to, unsigned flags, int priority) {
    (void)flags;
    ENTER();
    Stream *stream = calloc(1, sizeof *stream);
    stream->card = current;
    stream->priority = priority;
    *to = stream;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *to, unsigned flags) {
    return cudaStreamCreateWithPriority(to, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t *to) { return cudaStreamCreateWithPriority(to, 0, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    free(stream_of(stream));
    return cudaSuccess;
}
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *to) {
    Stream *s = stream_of(stream);
    *to = s ? s->priority : 0;
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    ENTER();
    Stream *s = stream_of(stream);
    if (!s || !s->captured) return cudaSuccess;
    s->captured->spoiled = 1;
    return said(cudaErrorStreamCaptureUnsupported);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return cudaStreamQuery(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    (void)stream; (void)event; (void)flags;
    return enter();
}

/* Events: all is done when it is asked for, so an event is a time */
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *to, unsigned flags) {
    (void)flags;
    ENTER();
    *to = calloc(1, sizeof(Event));
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *to) { return cudaEventCreateWithFlags(to, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { free(event); return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    (void)stream;
    ENTER();
    clock_gettime(CLOCK_MONOTONIC, &event->at);
    return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
    (void)flags;
    return cudaEventRecord(event, stream);
}
cudaError_t cudaEventQuery(cudaEvent_t event) { (void)event; ENTER(); return unsafe(); }
cudaError_t cudaEventSynchronize(cudaEvent_t event) { (void)event; ENTER(); return unsafe(); }
cudaError_t cudaEventElapsedTime(float *to, cudaEvent_t start, cudaEvent_t end) {
    *to = (float)(1e3 * (double)(end->at.tv_sec - start->at.tv_sec)
                  + 1e-6 * (double)(end->at.tv_nsec - start->at.tv_nsec));
    return cudaSuccess;
}

/* Captures and graphs */
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
    int before = exchanged;
    exchanged = (int)*mode;
    *mode = (enum cudaStreamCaptureMode)before;
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    ENTER();
    Stream *s = stream_of(stream);
    if (!s || s->captured) return said(cudaErrorStreamCaptureUnsupported);
    s->captured = calloc(1, sizeof(Graph));
    s->mode = (int)mode;
    s->by = pthread_self();
    for (int i = 0; i < MOST_CAPTURES; i++)
        if (!captures[i]) { captures[i] = s; break; }
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t graph,
        const cudaGraphNode_t *before, const cudaGraphEdgeData *edges, size_t count,
        enum cudaStreamCaptureMode mode) {
    (void)graph; (void)before; (void)edges; (void)count;
    return cudaStreamBeginCapture(stream, mode);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *to) {
    Stream *s = stream_of(stream);
    if (!s || !s->captured) return said(cudaErrorInvalidValue);
    for (int i = 0; i < MOST_CAPTURES; i++)
        if (captures[i] == s) captures[i] = NULL;
    Graph *graph = s->captured;
    s->captured = NULL;
    *to = NULL;
    if (broken) return said((cudaError_t)broken);
    if (graph->spoiled) return said(cudaErrorStreamCaptureInvalidated);
    *to = graph;
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *to) {
    Stream *s = stream_of(stream);
    *to = !s || !s->captured ? cudaStreamCaptureStatusNone
        : s->captured->spoiled ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
        unsigned long long *id, cudaGraph_t *graph, const cudaGraphNode_t **nodes,
        const cudaGraphEdgeData **edges, size_t *count) {
    Stream *s = stream_of(stream);
    if (id) *id = (unsigned long long)(size_t)(s ? s->captured : NULL);
    if (graph) *graph = s ? s->captured : NULL;
    if (nodes) *nodes = NULL;
    if (edges) *edges = NULL;
    if (count) *count = 0;
    return cudaStreamIsCapturing(stream, status);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *to, cudaGraph_t graph, unsigned long long flags) {
    (void)flags;
    ENTER();
    *to = (cudaGraphExec_t)graph;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *to, cudaGraph_t graph,
                                          unsigned long long flags) {
    return cudaGraphInstantiate(to, graph, flags);
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
    (void)nodes;
    *count = (size_t)graph->count;
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { (void)graph; return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    Graph *graph = (Graph *)exec;
    for (int i = 0; i < graph->count; i++)
        if (graph->nodes[i].computed >= 0) compute(graph->nodes[i].computed, 1);
    free(graph->nodes);
    free(graph);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    (void)stream;
    ENTER();
    Graph *graph = (Graph *)exec;
    for (int i = 0; i < graph->count; i++) run(&graph->nodes[i]);
    return broken ? said((cudaError_t)broken) : cudaSuccess;
}

/* Kernels: known by name, so that a failure says which */
typedef struct { const void *host; const char *name; } Kernel;
static Kernel *kernels;
static int kernel_count;
void **__cudaRegisterFatBinary(void *binary) { static void *handle; (void)binary; return &handle; }
void __cudaRegisterFatBinaryEnd(void **handle) { (void)handle; }
void __cudaUnregisterFatBinary(void **handle) { (void)handle; }
void __cudaRegisterFunction(void **handle, const char *host, char *device, const char *name, int limit,
        void *a, void *b, void *c, void *d, int *e) {
    (void)handle; (void)device; (void)limit; (void)a; (void)b; (void)c; (void)d; (void)e;
    if (kernel_count % 4096 == 0)
        kernels = realloc(kernels, sizeof *kernels * (size_t)(kernel_count + 4096));
    kernels[kernel_count++] = (Kernel){host, name};
}
void __cudaRegisterVar(void **handle, char *host, char *device, const char *name, int a, size_t b,
                       int c, int d) {
    (void)handle; (void)host; (void)device; (void)name; (void)a; (void)b; (void)c; (void)d;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
    (void)grid; (void)block; (void)shared; (void)stream;
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    memset(grid, 0, sizeof *grid);
    memset(block, 0, sizeof *block);
    *shared = 0;
    *(void **)stream = NULL;
    return cudaSuccess;
}
static cudaError_t no_kernel(const void *host) {
    const char *name = "a kernel";
    for (int i = 0; i < kernel_count; i++)
        if (kernels[i].host == host) name = kernels[i].name;
    fprintf(stderr, "stand-in CUDA: nobody computes %s\n", name);
    return said(cudaErrorNotSupported);
}
cudaError_t cudaLaunchKernel(const void *host, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t stream) {
    (void)grid; (void)block; (void)arguments; (void)shared; (void)stream;
    return no_kernel(host);
}
cudaError_t __cudaGetKernel(void **kernel, const void *host) { *kernel = (void *)host; return cudaSuccess; }
cudaError_t __cudaLaunchKernel(void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                               cudaStream_t stream) {
    (void)grid; (void)block; (void)arguments; (void)shared; (void)stream;
    return no_kernel(kernel);
}

/* The driver's own API: as far as torch and tests/gpu/program.py ask */
enum { NOT_FOUND = 500 };
int cuInit(unsigned flags) { (void)flags; return count() ? 0 : unstarted ? unstarted : 100; }
int cuDeviceGet(int *to, int ordinal) { *to = ordinal; return ordinal < count() ? 0 : 101; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    *flags = 0;
    *active = device < MAX_DEVICES && contexts[device];
    return 0;
}
int cuDevicePrimaryCtxRetain(void **to, int device) {
    current = device;
    *to = &contexts[device];
    return enter() == cudaErrorMemoryAllocation ? 2 : 0;
}
int cuCtxSetCurrent(void *context) { current = (int)((int *)context - contexts); return 0; }
int cuCtxGetCurrent(void **to) { *to = contexts[current] ? &contexts[current] : NULL; return 0; }
int cuMemAlloc_v2(u64 *to, size_t size) {
    void *at = NULL;
    cudaError_t error = cudaMalloc(&at, size);
    *to = (u64)(size_t)at;
    return (int)error;
}
int cuMemFree_v2(u64 at) { return (int)cudaFree((void *)(size_t)at); }
int cuGetErrorName(int error, const char **to) {
    *to = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN";
    return 0;
}
static int not_there(void) { return 801; /* not supported */ }
cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **to, unsigned version,
        unsigned long long flags, enum cudaDriverEntryPointQueryResult *result) {
    (void)version; (void)flags;
    *to = dlsym(RTLD_DEFAULT, symbol);
    if (!*to) *to = (void *)not_there;
    if (result) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}
