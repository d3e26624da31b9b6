/* A stand-in for NVIDIA's libnvidia-ml.so.1: the calls that Danzar's probe and torch make,
 * answered from a text file (format: tests/standin/nvml.py), so that a test changes the driver's
 * answers while a program runs: every call parses it into memory of its own. Not thread-safe
 * beyond what a test needs. With DANZAR_STANDIN_STILL set what was read first is kept, so that
 * the cost of a caller can be measured.
 * It has no soname on purpose: loaded by path it never shadows a real library. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <wchar.h>

#ifdef _WIN32 /* what its C library lacks; a scenario's lines are short */
#include <windows.h>
enum { MAX_DEVICES = 16 };
static char *variable(const char *name) { /* as it is now: each C library has a copy of its own */
    static char value[32768];
    return GetEnvironmentVariableA(name, value, sizeof value) ? value : NULL;
}
static char *strsep(char **rest, const char *ends) {
    char *field = *rest;
    if (!field) return NULL;
    char *end = field + strcspn(field, ends);
    *rest = *end ? end + 1 : NULL;
    *end = '\0';
    return field;
}
static ssize_t getline(char **line, size_t *room, FILE *file) {
    if (!*line) *line = malloc(*room = 65536);
    return *line && fgets(*line, (int)*room, file) ? (ssize_t)strlen(*line) : -1;
}
#else
#include "cuda/accounts.h"
#define variable getenv
#endif

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15
};
enum { MAX_PROCESSES = 256, MAX_FAULTS = 64, MAX_HANDLES = 64, TEXT = 512 };

typedef unsigned long long u64;

typedef struct {
    char name[TEXT], uuid[TEXT], bus[TEXT];
    u64 total, free, reserved;
    unsigned gpu, memory, temperature, power, major, minor, cores;
    int mig, parent; /* mig: the card is partitioned; parent: the card whose part this is, or -1 */
} Device;
typedef struct {
    int device, graphics, has_name, has_used, has_resident;
    unsigned pid;
    u64 used, resident; /* the driver's account, and Windows' */
    char name[TEXT];
} Process;
typedef struct { char call[TEXT]; int device, code; double seconds; } Fault;
typedef struct {
    char driver[TEXT];
    unsigned pids, sizeless;
    int devices, processes, faults;
    Device device[MAX_DEVICES];
    Process process[MAX_PROCESSES];
    Fault fault[MAX_FAULTS];
} Scenario;

static int started; /* nvmlInit and nvmlShutdown are counted, as in the driver */

static void copy(char *to, const char *from) {
    strncpy(to, from, TEXT - 1);
    to[TEXT - 1] = '\0';
}

/* One `key=value` of a line into the record that the line's first word named. */
static void take(Scenario *s, const char *kind, const char *key, const char *value) {
    u64 number = strtoull(value, NULL, 10);
#define TEXT_KEY(record, field) if (!strcmp(key, #field)) copy((record)->field, value)
#define NUMBER_KEY(record, field) if (!strcmp(key, #field)) (record)->field = number
    if (!strcmp(kind, "library")) {
        TEXT_KEY(s, driver);
        NUMBER_KEY(s, pids); NUMBER_KEY(s, sizeless);
    } else if (!strcmp(kind, "device")) {
        Device *d = &s->device[s->devices - 1];
        TEXT_KEY(d, name); TEXT_KEY(d, uuid); TEXT_KEY(d, bus);
        NUMBER_KEY(d, total); NUMBER_KEY(d, free); NUMBER_KEY(d, reserved);
        NUMBER_KEY(d, gpu); NUMBER_KEY(d, memory); NUMBER_KEY(d, temperature);
        NUMBER_KEY(d, power); NUMBER_KEY(d, major); NUMBER_KEY(d, minor);
        NUMBER_KEY(d, cores);
        NUMBER_KEY(d, mig); NUMBER_KEY(d, parent);
    } else if (!strcmp(kind, "process")) {
        Process *p = &s->process[s->processes - 1];
        NUMBER_KEY(p, device); NUMBER_KEY(p, graphics); NUMBER_KEY(p, pid);
        if (!strcmp(key, "used")) { p->used = number; p->has_used = 1; }
        if (!strcmp(key, "resident")) { p->resident = number; p->has_resident = 1; }
        if (!strcmp(key, "name")) { copy(p->name, value); p->has_name = 1; }
    } else if (!strcmp(kind, "fault")) {
        Fault *f = &s->fault[s->faults - 1];
        TEXT_KEY(f, call);
        if (!strcmp(key, "device")) f->device = atoi(value);
        NUMBER_KEY(f, code);
        if (!strcmp(key, "seconds")) f->seconds = strtod(value, NULL);
    }
}

static Scenario *kept;
static int still = -1;

/* What processes hold on the stand-in for CUDA comes on top of what the scenario says. */
static void add_accounts(Scenario *s) {
#ifndef _WIN32
    int file;
    Holder *rows = accounts(0, &file);
    if (!rows) return;
    for (int row = 0; row < MOST_HOLDERS; row++) {
        if (!rows[row].pid || accounts_lock(file, row, F_WRLCK, F_OFD_GETLK) == F_UNLCK) continue;
        for (int i = 0; i < s->devices; i++) {
            u64 bytes = rows[row].bytes[i];
            if (!bytes || s->processes == MAX_PROCESSES) continue;
            s->device[i].free -= bytes < s->device[i].free ? bytes : s->device[i].free;
            s->process[s->processes++] = (Process){
                .device = i, .pid = (unsigned)rows[row].pid + s->pids,
                .has_used = !s->sizeless, .used = bytes};
        }
    }
    munmap(rows, sizeof *rows * MOST_HOLDERS);
    close(file);
#else
    (void)s;
#endif
}

/* NULL when there is no scenario: to the caller, no driver. */
static Scenario *read_scenario(void) {
    if (still < 0) still = variable("DANZAR_STANDIN_STILL") != NULL;
    if (still && kept) return kept;
    const char *path = variable("DANZAR_STANDIN_NVML");
    FILE *file = path ? fopen(path, "rb") : NULL;
    if (!file) return NULL;
    Scenario *s = calloc(1, sizeof *s);
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    while (s && (length = getline(&line, &room, file)) > 0) {
        if (line[length - 1] == '\n') line[length - 1] = '\0';
        char *rest = line, *kind = strsep(&rest, "\t"), *field;
        if (!strcmp(kind, "device")) {
            if (s->devices == MAX_DEVICES) continue;
            s->device[s->devices++].parent = -1;
        }
        if (!strcmp(kind, "process")) { if (s->processes == MAX_PROCESSES) continue; s->processes++; }
        if (!strcmp(kind, "fault")) {
            if (s->faults == MAX_FAULTS) continue;
            s->fault[s->faults++].device = -1;
        }
        while ((field = strsep(&rest, "\t"))) {
            char *value = strchr(field, '=');
            if (!value) continue;
            *value++ = '\0';
            take(s, kind, field, value);
        }
    }
    free(line);
    fclose(file);
    if (s) add_accounts(s);
    if (still) kept = s;
    return s;
}

static void done(Scenario *s) {
    if (s != kept) free(s);
}

/* A handle belongs to a card, wherever it is in the list: one that was taken out leaves its own
 * handle invalid and those of the others as they are. */
static struct { char uuid[TEXT], bus[TEXT]; } handles[MAX_HANDLES];

static int belongs(size_t number, const Device *d) {
    return !strcmp(handles[number].uuid, d->uuid) && !strcmp(handles[number].bus, d->bus);
}

static void *handle_of(const Device *d) {
    for (size_t i = 0; i < MAX_HANDLES; i++) {
        if (!handles[i].bus[0]) {
            copy(handles[i].uuid, d->uuid);
            copy(handles[i].bus, d->bus);
        }
        if (belongs(i, d)) return (void *)(i + 1);
    }
    return NULL;
}

static int position_of(const Scenario *s, void *handle) {
    size_t number = (size_t)handle - 1;
    for (int i = 0; s && number < MAX_HANDLES && i < s->devices; i++)
        if (belongs(number, &s->device[i])) return i;
    return -1;
}

/* The n-th card (parent -1) or the n-th part of a card; -1 if there is none. */
static int nth(const Scenario *s, int parent, int n) {
    for (int i = 0; s && i < s->devices; i++)
        if (s->device[i].parent == parent && n-- == 0) return i;
    return -1;
}

/* What every call begins with: the scenario's faults for this call and device. */
static int faults(const char *call, int device, Scenario *s) {
    if (!s) return DRIVER_NOT_LOADED;
    for (int i = 0; i < s->faults; i++) {
        Fault *f = &s->fault[i];
        if (strcmp(f->call, "*") && strcmp(f->call, call)) continue;
        if (f->device >= 0 && f->device != device) continue;
        if (f->seconds > 0) usleep((useconds_t)(f->seconds * 1e6));
        if (f->code) return f->code;
    }
    return SUCCESS;
}

/* Runs BODY with `s` (and `d` for a device call) and returns what it left in `code`. */
#define CALL(BODY) do { \
        if (!started) return UNINITIALIZED; \
        Scenario *s = read_scenario(); \
        int code = faults(__func__, -1, s); \
        if (code == SUCCESS) { BODY } \
        done(s); \
        return code; \
    } while (0)
#define DEVICE_CALL(BODY) do { \
        if (!started) return UNINITIALIZED; \
        Scenario *s = read_scenario(); \
        int index = position_of(s, handle); \
        int code = faults(__func__, index, s); \
        if (code == SUCCESS && index < 0) code = GPU_IS_LOST; \
        if (code == SUCCESS) { Device *d = &s->device[index]; (void)d; BODY } \
        done(s); \
        return code; \
    } while (0)

static int text(const char *from, char *to, unsigned room) {
    if (strlen(from) + 1 > room) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    Scenario *s = read_scenario();
    int code = faults(__func__, -1, s);
    done(s);
    if (code == SUCCESS) started++;
    return code;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlInit(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) { CALL(started--;); }

const char *nvmlErrorString(int code) {
    switch (code) {
    case SUCCESS: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case 10: return "Timeout";
    case 12: return "NVML Shared Library Not Found";
    case GPU_IS_LOST: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *to, unsigned room) { CALL(code = text(s->driver, to, room);); }
int nvmlSystemGetNVMLVersion(char *to, unsigned room) { CALL(code = text(s->driver, to, room);); }
int nvmlSystemGetCudaDriverVersion(int *version) { CALL(*version = 12080;); }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { CALL(*version = 12080;); }

int nvmlSystemGetProcessName(unsigned pid, char *to, unsigned room) {
    CALL(
        code = NOT_FOUND;
        for (int i = 0; i < s->processes; i++)
            if (s->process[i].pid == pid && s->process[i].has_name) {
                code = text(s->process[i].name, to, room);
                break;
            }
    );
}

int nvmlDeviceGetCount_v2(unsigned *count) { 
    CALL(*count = 0; while (nth(s, -1, (int)*count) >= 0) ++*count;);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if (!started) return UNINITIALIZED;
    Scenario *s = read_scenario();
    int position = nth(s, -1, (int)index);
    int code = faults(__func__, position, s);
    if (code == SUCCESS && position < 0) code = INVALID_ARGUMENT;
    if (code == SUCCESS) *handle = handle_of(&s->device[position]);
    done(s);
    return code;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    CALL(
        code = NOT_FOUND;
        for (int i = 0; i < s->devices; i++)
            if (!strcmp(s->device[i].uuid, uuid)) {
                *handle = handle_of(&s->device[i]);
                code = SUCCESS;
            }
    );
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **handle) {
    CALL(
        code = NOT_FOUND;
        for (int i = 0; i < s->devices; i++)
            if (!strcasecmp(s->device[i].bus, bus)) {
                *handle = handle_of(&s->device[i]);
                code = SUCCESS;
            }
    );
}

int nvmlDeviceGetName(void *handle, char *to, unsigned room) {
    DEVICE_CALL(code = text(d->name, to, room););
}
int nvmlDeviceGetUUID(void *handle, char *to, unsigned room) {
    DEVICE_CALL(code = text(d->uuid, to, room););
}
int nvmlDeviceGetIndex(void *handle, unsigned *to) { DEVICE_CALL(*to = (unsigned)index;); }
int nvmlDeviceGetMinorNumber(void *handle, unsigned *to) { DEVICE_CALL(*to = (unsigned)index;); }

typedef struct { u64 total, free, used; } Memory;
int nvmlDeviceGetMemoryInfo(void *handle, Memory *to) {
    DEVICE_CALL(to->total = d->total; to->free = d->free; to->used = d->total - d->free;);
}

typedef struct { unsigned version; u64 total, reserved, free, used; } MemoryV2;
int nvmlDeviceGetMemoryInfo_v2(void *handle, MemoryV2 *to) {
    DEVICE_CALL(
        if (to->version != 0x02000028) code = 25; /* argument version mismatch */
        else {
            to->total = d->total;
            to->reserved = d->reserved;
            to->free = d->free;
            to->used = d->total - d->free - d->reserved; /* v2 leaves the driver's share out */
        }
    );
}

typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
} Pci;
int nvmlDeviceGetPciInfo_v3(void *handle, Pci *to) {
    DEVICE_CALL(
        memset(to, 0, sizeof *to);
        sscanf(d->bus, "%x:%x:%x", &to->domain, &to->bus, &to->device);
        to->id = 0x278610de;
        snprintf(to->legacy, sizeof to->legacy, "%04x:%02x:%02x.0", to->domain & 0xffff,
                 to->bus & 0xff, to->device & 0xff);
        snprintf(to->bus_id, sizeof to->bus_id, "%s", d->bus);
    );
}

typedef struct { unsigned gpu, memory; } Utilization;
int nvmlDeviceGetUtilizationRates(void *handle, Utilization *to) {
    DEVICE_CALL(
        if (d->parent >= 0) code = NOT_SUPPORTED; /* of a part nobody knows */
        else { to->gpu = d->gpu; to->memory = d->memory; }
    );
}
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *to) {
    (void)sensor;
    DEVICE_CALL(*to = d->temperature;);
}
typedef struct { unsigned version; int sensor; int temperature; } TemperatureV1;
int nvmlDeviceGetTemperatureV(void *handle, TemperatureV1 *to) {
    DEVICE_CALL(to->temperature = (int)d->temperature;);
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) {
    DEVICE_CALL(*milliwatts = d->power;);
}
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    DEVICE_CALL(*major = (int)d->major; *minor = (int)d->minor;);
}
int nvmlDeviceGetNumGpuCores(void *handle, unsigned *cores) {
    DEVICE_CALL(
        if (d->cores) *cores = d->cores;
        else code = NOT_SUPPORTED;
    );
}
int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    DEVICE_CALL(
        if (d->mig) *current = *pending = 1;
        else code = NOT_SUPPORTED;
    );
}
int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) {
    DEVICE_CALL(*count = d->mig ? 7 : 0;);
}
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned part, void **to) {
    DEVICE_CALL(
        int position = nth(s, index, (int)part);
        if (position < 0) code = NOT_FOUND;
        else *to = handle_of(&s->device[position]);
    );
}

typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } ProcessInfo;
static int processes(Scenario *s, int index, int graphics, unsigned *count, ProcessInfo *to) {
    unsigned room = to ? *count : 0, found = 0;
    for (int i = 0; i < s->processes; i++) {
        Process *p = &s->process[i];
        if (p->device != index || p->graphics != graphics) continue;
        if (found < room) {
            to[found].pid = p->pid;
            to[found].used = p->has_used ? p->used : ~0ULL; /* WDDM, WSL: not available */
            to[found].gpu_instance = to[found].compute_instance = ~0U;
        }
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *to) {
    DEVICE_CALL(code = processes(s, index, 0, count, to););
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *to) {
    DEVICE_CALL(code = processes(s, index, 1, count, to););
}
/* torch names who holds a full card, with the first version of this call. */
typedef struct { unsigned pid; u64 used; } ProcessInfoV1;
int nvmlDeviceGetComputeRunningProcesses(void *handle, unsigned *count, ProcessInfoV1 *to) {
    ProcessInfo found[MAX_PROCESSES];
    DEVICE_CALL(
        unsigned room = *count < MAX_PROCESSES ? *count : MAX_PROCESSES;
        *count = room;
        code = processes(s, index, 0, count, found);
        for (unsigned i = 0; to && i < room && i < *count; i++) {
            to[i].pid = found[i].pid;
            to[i].used = found[i].used;
        }
    );
}
/* It looks for these two at the same time; our cards have no such links. */
int nvmlDeviceGetNvLinkRemoteDeviceType(void *handle, unsigned link, int *to) {
    (void)link; (void)to;
    DEVICE_CALL(code = NOT_SUPPORTED;);
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *handle, unsigned link, Pci *to) {
    (void)link; (void)to;
    DEVICE_CALL(code = NOT_SUPPORTED;);
}

/* For the stand-in for CUDA: the scenario's fault of "cuda" and the like, if any. */
int standin_fault(const char *call, int device) {
    Scenario *s = read_scenario();
    int code = SUCCESS;
    for (int i = 0; s && i < s->faults; i++) {
        const Fault *f = &s->fault[i];
        if (!strcmp(f->call, call) && (f->device < 0 || f->device == device)) code = f->code;
    }
    done(s);
    return code;
}

/* What Windows answers about the memory of processes: pdh.dll and gdi32.dll, as far as
 * danzar_gpu/probes/windows_accounts.py asks them. A card's LUID is 0 and LUID_LOW + its number;
 * one more adapter, a renderer in software, is on no bus. One more figure, of the first card, is not
 * valid. What is open is counted. */
enum { LUID_LOW = 0xD3C0, PDH_MORE_DATA = (int)0x800007D2, PDH_NO_DATA = (int)0x800007D5,
       PDH_NO_OBJECT = (int)0xC0000BB8 };
typedef struct { wchar_t *name; unsigned status; union { int l; double d; long long large; } value; }
    CounterItem;
static char query, counter;
static int open_queries, open_adapters;
int standin_open_queries(void) { return open_queries; }
int standin_open_adapters(void) { return open_adapters; }

int PdhOpenQueryW(const wchar_t *source, size_t data, void **to) {
    (void)source; (void)data;
    Scenario *s = read_scenario();
    int code = faults(__func__, -1, s);
    done(s);
    *to = &query;
    if (code == SUCCESS) open_queries++;
    return code;
}
int PdhAddEnglishCounterW(void *of, const wchar_t *path, size_t data, void **to) {
    (void)data;
    if (of != &query || wcscmp(path, L"\\GPU Process Memory(*)\\Local Usage")) return PDH_NO_OBJECT;
    *to = &counter;
    return SUCCESS;
}
int PdhCollectQueryData(void *of) {
    Scenario *s = read_scenario();
    int found = 0;
    for (int i = 0; s && i < s->processes; i++) found += s->process[i].has_resident;
    done(s);
    return of != &query ? PDH_NO_OBJECT : found ? SUCCESS : PDH_NO_DATA;
}
int PdhGetFormattedCounterArrayW(void *of, unsigned format, unsigned *size, unsigned *count,
                                 CounterItem *to) {
    enum { NAME = 64 };
    if (of != &counter || format != 0x400) return PDH_NO_OBJECT;
    Scenario *s = read_scenario();
    unsigned number = 2, wanted;
    for (int i = 0; s && i < s->processes; i++) number += s->process[i].has_resident != 0;
    wanted = number * (unsigned)(sizeof *to + NAME * sizeof(wchar_t));
    int code = *size < wanted ? PDH_MORE_DATA : SUCCESS;
    *size = wanted;
    *count = number;
    if (code == SUCCESS) {
        wchar_t *names = (wchar_t *)(to + number);
        unsigned next = 0;
        for (int i = -2; i < s->processes; i++) {
            Process *p = i < 0 ? NULL : &s->process[i];
            if (p && !p->has_resident) continue;
            unsigned adapter = p ? (unsigned)p->device : i == -1 ? MAX_DEVICES : 0;
            to[next].name = names + next * NAME;
            swprintf(to[next].name, NAME, L"pid_%u_luid_0x%08X_0x%08X_phys_0", p ? p->pid : 4,
                     0u, LUID_LOW + adapter);
            to[next].status = i == -2 ? 0xC0000BC6 : 0; /* PDH_INVALID_DATA */
            to[next++].value.large = p ? (long long)p->resident : 12345;
        }
    }
    done(s);
    return code;
}
int PdhCloseQuery(void *of) {
    if (of != &query) return PDH_NO_OBJECT;
    open_queries--;
    return SUCCESS;
}

typedef struct { unsigned low; int high; unsigned adapter; } OpenAdapter;
int D3DKMTOpenAdapterFromLuid(OpenAdapter *adapter) {
    adapter->adapter = adapter->low - LUID_LOW + 1;
    Scenario *s = read_scenario();
    int code = faults(__func__, -1, s);
    done(s);
    if (code || adapter->high || adapter->adapter > MAX_DEVICES + 1) return (int)0xC000000D;
    open_adapters++;
    return 0;
}
typedef struct { unsigned bus, device, function; } Address;
typedef struct { unsigned adapter; int kind; void *data; unsigned size; } AdapterQuery;
int D3DKMTQueryAdapterInfo(const AdapterQuery *query) {
    Scenario *s = read_scenario();
    unsigned n = query->adapter - 1, domain;
    Address *to = query->data;
    int well = s && query->kind == 6 && query->size == sizeof *to && (int)n < s->devices
        && sscanf(s->device[n].bus, "%x:%x:%x.%x", &domain, &to->bus, &to->device, &to->function) == 4;
    done(s);
    return well ? 0 : (int)0xC000000D;
}
int D3DKMTCloseAdapter(const unsigned *adapter) {
    if (!*adapter) return (int)0xC000000D;
    open_adapters--;
    return 0;
}
