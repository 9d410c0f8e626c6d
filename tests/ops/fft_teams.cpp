// The work of one CUDA block by threads of the host, as many as given: built with a race detector, this finds a missing
// barrier, and without one a partition that leaves something out. Results must be those of a single thread, bit for bit.
//
// fft_teams check THREADS  or  fft_teams memory (the most bytes that a block of either kernel needs)
#include <algorithm>
#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../csrc/common/framed_stft.h"
#include "../../csrc/common/masked_istft.h"

using namespace ussfast;

namespace {

struct Threads {
  int index, count;
  std::barrier<>* barrier;
  int rank() const { return index; }
  int size() const { return count; }
  void sync() const { barrier->arrive_and_wait(); }
};

std::vector<float> noise(int64_t count) {
  static std::mt19937 random(1);
  std::vector<float> values(count);
  for (float& value : values) value = float(random() % 2001) / 1000 - 1;
  return values;
}

// Shared memory begins with NaN, which whoever reads what nobody wrote hands on.
std::vector<Complex> memory(int64_t bytes) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  return std::vector<Complex>(bytes / sizeof(Complex) + 1, Complex{nan, nan});
}

template <class Block>
void by_threads(int count, int64_t blocks, int64_t bytes, const Block& block) {
  std::barrier barrier(count);
  std::vector<std::vector<Complex>> shared;
  for (int64_t i = 0; i < blocks; ++i) shared.push_back(memory(bytes));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < count; ++rank)
    threads.emplace_back([&, rank] {
      for (int64_t i = 0; i < blocks; ++i) block(Threads{rank, count, &barrier}, i, shared[i].data());
    });
  for (std::thread& thread : threads) thread.join();
}

template <class Args, class Block>
bool same(const char* name, Args args, int64_t outputs, int64_t blocks, int64_t bytes, int count, const Block& block) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> one(outputs, nan), several(outputs, nan);
  args.y = reinterpret_cast<decltype(args.y)>(one.data());
  for (int64_t i = 0; i < blocks; ++i) block(OneThread(), args, i, memory(bytes).data());
  args.y = reinterpret_cast<decltype(args.y)>(several.data());
  by_threads(count, blocks, bytes, [&](Threads team, int64_t i, Complex* m) { block(team, args, i, m); });
  for (int64_t i = 0; i < outputs; ++i)
    if (!(one[i] == several[i])) {  // also where both are NaN
      std::printf("%s, n_fft %d, %d threads: %ld is %g by one, %g by several\n", name, args.n_fft, count, long(i),
                  one[i], several[i]);
      return false;
    }
  return true;
}

bool check(int n, int threads) {
  const FftPlan plan = fft_plan(n);
  std::vector<Complex> table(plan.table_size);
  fft_table(plan, table.data());
  const int width = n > 4 ? n - 3 : n, hop = (width + 2) / 3, bins = n / 2 + 1;
  const auto window = noise(width), ring = noise(2 * (n + 5)), mask = noise(2 * 3 * 5 * bins * 2),
             spec = noise(3 * 5 * bins * 2);
  const std::vector<int64_t> begin = {3, -n};
  const FramedStftArgs framed = {.ring = ring.data(), .begin = begin.data(), .window = window.data(),
                                 .table = table.data(), .y = nullptr, .row = n + 5, .rows = 2, .frames = 2,
                                 .capacity = n + 5, .hop = 4, .n_fft = n, .window_length = width, .plan = plan};
  MaskedIstftArgs masked = {.mask = mask.data(), .spec = reinterpret_cast<const Complex*>(spec.data()),
                            .window = window.data(), .table = table.data(), .y = nullptr,
                            .mask_stream = 5 * bins, .mask_source = 15 * bins, .mask_frame = bins,
                            .spec_stream = 5 * bins, .spec_frame = bins, .streams = 3, .sources = 2, .frames = 5,
                            .samples = 6 * hop + 1, .n_fft = n, .hop = hop, .window_length = width, .scale = 0.1f,
                            .run = 2, .plan = plan};
  return same("framed_stft", framed, 2 * 2 * bins * 2, 4, framed_stft_memory(plan), threads,
              [](auto team, const auto& args, int64_t i, Complex* m) { framed_stft_frame(team, args, i, m); }) &&
         same("masked_istft", masked, 6 * masked.samples, 6 * masked.runs(), masked_istft_memory(plan, width), threads,
              [](auto team, const auto& args, int64_t i, Complex* m) { masked_istft_run_of<Complex>(team, args, i, m); });
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 2 && arguments[1] == std::string("memory")) {
    int64_t most = 0;
    for (int n = 2; n <= kLongestFft; n += 2)
      if (fft_fits(n)) most = std::max({most, framed_stft_memory(fft_plan(n)), masked_istft_memory(fft_plan(n), n)});
    std::printf("%ld\n", long(most));
    return 0;
  }
  if (count != 3 || arguments[1] != std::string("check")) return 2;
  // Every radix, odd and even numbers of passes, none, and more threads than work.
  for (const int n : {2, 4, 16, 30, 90, 128, 240, 512})
    if (!check(n, std::atoi(arguments[2]))) return 1;
  return 0;
}
