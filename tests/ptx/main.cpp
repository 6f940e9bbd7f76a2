// Runs all cases, after those of the machine itself.
#include <algorithm>
#include <cmath>

#include "cases.h"

#if !defined(ANCHOR_EXT_DEVICE)
struct Sums {
  unsigned long long sum, smallest;
  int largest, odd;
};
void launch_sums(const int* numbers, int count, Sums* sums, float* powers);

static void check_sums() {
  std::vector<int> numbers(1000);
  for (int& number : numbers) number = static_cast<int>(cases::integer(3, 40));
  std::vector<float> powers(numbers.size());
  Sums sums{0, ~0ull, 0, 0}, expected = sums;
  const auto address = [](const void* memory) { return reinterpret_cast<std::uint64_t>(memory); };
  ptx::machine.regions = {{address(numbers.data()), 4000, ptx::Region::input, {}},
                          {address(&sums), sizeof sums, ptx::Region::atomics, {}},
                          {address(powers.data()), 4000, ptx::Region::output, cases::Bytes(4000)}};
  launch_sums(numbers.data(), 1000, &sums, powers.data());
  if (!ptx::machine.last.approximates || ptx::machine.last.depends_on_order)
    cases::wrong("what a launch did is not noted");
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const int number = numbers[i];
    expected = {expected.sum + static_cast<unsigned>(number),
                std::min(expected.smallest, static_cast<unsigned long long>(number)),
                std::max(expected.largest, number), expected.odd + number % 2};
    const double power = std::exp2(-number) + std::log2(1.0 + number);
    if (std::abs(powers[i] - power) > 1e-6 * power) cases::wrong("an approximation is too far off");
  }
  if (std::memcmp(&sums, &expected, sizeof sums) != 0) cases::wrong("atomics, shuffles or votes");
}
#endif

int main() {
#if !defined(ANCHOR_EXT_DEVICE)
  check_sums();
#endif
  for (const auto one : cases::all()) one();
  std::printf("%ld cases, all equal\n", cases::count);
}
