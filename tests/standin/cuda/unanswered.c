/* What torch links against and no test of ours needs: a call fails, and says which it was. */
#include <stdio.h>

#define NOBODY(call) int call(void) { \
        fprintf(stderr, "stand-in CUDA: nobody answers " #call "\n"); \
        return 801; /* not supported */ \
    }
NOBODY(cudaDeviceEnablePeerAccess) NOBODY(cudaDeviceGetDefaultMemPool)
NOBODY(cudaDeviceGetGraphMemAttribute) NOBODY(cudaDeviceSetGraphMemAttribute)
NOBODY(cudaFreeAsync) NOBODY(cudaFuncGetAttributes) NOBODY(cudaFuncSetAttribute)
NOBODY(cudaGetSymbolAddress) NOBODY(cudaGraphAddNode) NOBODY(cudaGraphConditionalHandleCreate)
NOBODY(cudaGraphNodeGetDependencies) NOBODY(cudaGraphRetainUserObject) NOBODY(cudaHostRegister)
NOBODY(cudaHostUnregister) NOBODY(cudaIpcCloseMemHandle) NOBODY(cudaIpcGetEventHandle)
NOBODY(cudaIpcGetMemHandle) NOBODY(cudaIpcOpenEventHandle) NOBODY(cudaIpcOpenMemHandle)
NOBODY(cudaKernelSetAttributeForDevice) NOBODY(cudaLaunchCooperativeKernel)
NOBODY(cudaLaunchHostFunc) NOBODY(cudaLaunchKernelExC) NOBODY(cudaLibraryGetGlobal)
NOBODY(cudaLibraryGetKernel) NOBODY(cudaLibraryGetKernelCount) NOBODY(cudaLibraryGetManaged)
NOBODY(cudaLibraryGetUnifiedFunction) NOBODY(cudaLibraryLoadData)
NOBODY(cudaLibraryLoadFromFile) NOBODY(cudaLibraryUnload) NOBODY(cudaMallocAsync)
NOBODY(cudaMallocManaged) NOBODY(cudaMemPoolGetAttribute) NOBODY(cudaMemPoolSetAccess)
NOBODY(cudaMemPoolSetAttribute) NOBODY(cudaMemPoolTrimTo) NOBODY(cudaMemcpy2DAsync)
NOBODY(cudaMemcpyToSymbol) NOBODY(cudaOccupancyMaxActiveBlocksPerMultiprocessor)
NOBODY(cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags) NOBODY(cudaProfilerStart)
NOBODY(cudaProfilerStop) NOBODY(cudaStreamAddCallback)
NOBODY(cudaStreamUpdateCaptureDependencies) NOBODY(cudaUserObjectCreate)
NOBODY(cudaUserObjectRelease)
