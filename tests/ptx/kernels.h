#pragma once

struct Sums {
  unsigned long long sum, smallest;
  int largest, odd;
};
void launch_sums(const int* numbers, int count, Sums* sums, float* powers);
void launch_reverse(const int* numbers, int* reversed, bool waits);  // 256 numbers
