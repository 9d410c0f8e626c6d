// WAV files: 16-bit PCM and float32 in, float32 out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ussfast {

struct Audio {
  int64_t rate = 0;
  std::vector<std::vector<float>> channels;
};

// Throws Error for what is no such file.
Audio read_wav(const std::string& path);

// Under a name of its own until all of it is there; throws Error.
void write_wav(const std::string& path, const Audio& audio);

}  // namespace ussfast
