// Runs a package, compiled ahead for the CPU, of a model with anchors in it: no Python, nothing but libtorch and
// libanchor_ext.so.
#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

namespace {

void print_box(const at::Tensor& box) {
  const at::Tensor on_cpu = box.cpu();
  const float* numbers = on_cpu.const_data_ptr<float>();
  std::printf("%.9g %.9g %.9g %.9g\n", numbers[0], numbers[1], numbers[2], numbers[3]);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4) {
    std::fprintf(stderr, "usage: anchors PACKAGE.pt2 HEIGHT WIDTH\n");
    return 2;
  }
  const long height = std::atol(argv[2]), width = std::atol(argv[3]);
  torch::inductor::AOTIModelPackageLoader model(argv[1]);
  const at::Tensor boxes = model.run({at::zeros({1, 3, height, width})})[0][0];
  std::printf("%lld\n", static_cast<long long>(boxes.size(0)));
  print_box(boxes[0]);
  print_box(boxes[-1]);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
