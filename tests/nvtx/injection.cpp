// A tool for NVTX, as nsys is one: NVTX loads it when NVTX_INJECTION64_PATH names it. Prints every range it is told of.
#include <nvtx3/nvToolsExt.h>

#include <cstdio>
#include <map>
#include <string>

namespace {

std::map<nvtxDomainHandle_t, std::string> domains;
std::map<nvtxStringHandle_t, std::string> strings;

nvtxDomainHandle_t NVTX_API domain_create(const char* name) {
  auto* handle = reinterpret_cast<nvtxDomainHandle_t>(domains.size() + 1);
  domains[handle] = name;
  return handle;
}

nvtxStringHandle_t NVTX_API register_string(nvtxDomainHandle_t, const char* text) {
  auto* handle = reinterpret_cast<nvtxStringHandle_t>(strings.size() + 1);
  strings[handle] = text;
  return handle;
}

int NVTX_API push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  const std::string name = event->messageType == NVTX_MESSAGE_TYPE_REGISTERED ? strings[event->message.registered]
                                                                              : std::string(event->message.ascii);
  std::printf("push %s %s\n", domains[domain].c_str(), name.c_str());
  std::fflush(stdout);
  return 0;
}

int NVTX_API pop(nvtxDomainHandle_t domain) {
  std::printf("pop %s\n", domains[domain].c_str());
  std::fflush(stdout);
  return 0;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
  const auto* callbacks = static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned size = 0;
  if (callbacks == nullptr || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size)) return 0;
  *table[NVTX_CBID_CORE2_DomainCreateA] = reinterpret_cast<NvtxFunctionPointer>(domain_create);
  *table[NVTX_CBID_CORE2_DomainRegisterStringA] = reinterpret_cast<NvtxFunctionPointer>(register_string);
  *table[NVTX_CBID_CORE2_DomainRangePushEx] = reinterpret_cast<NvtxFunctionPointer>(push);
  *table[NVTX_CBID_CORE2_DomainRangePop] = reinterpret_cast<NvtxFunctionPointer>(pop);
  return 1;
}
