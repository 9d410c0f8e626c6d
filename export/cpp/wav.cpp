#include "wav.h"

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "json.h"

namespace ussfast {
namespace {

constexpr uint16_t kPcm = 1, kFloat = 3, kExtensible = 0xFFFE;

// Numbers in a WAV file have their lowest byte first.
uint32_t number(const std::string& data, size_t at, int bytes) {
  uint32_t value = 0;
  for (int i = bytes - 1; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(data[at + i]);
  return value;
}

void put(std::string& data, uint32_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) data += static_cast<char>(value >> (8 * i) & 0xFF);
}

float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

Audio read_wav(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path)) throw Error(path + ": cannot be read");
  const std::string data{std::istreambuf_iterator<char>(file), {}};
  if (data.size() < 12 || data.compare(0, 4, "RIFF") != 0 || data.compare(8, 4, "WAVE") != 0)
    throw Error(path + ": is no WAV file");
  uint32_t format = 0, channels = 0, rate = 0, bits = 0;
  size_t begin = 0, bytes = 0;
  for (size_t at = 12; at + 8 <= data.size();) {
    const std::string name = data.substr(at, 4);
    const size_t told = number(data, at + 4, 4), left = data.size() - at - 8;
    at += 8;
    if (name == "fmt ") {
      if (told < 16 || told > left) throw Error(path + ": is cut short");
      format = number(data, at, 2), channels = number(data, at + 2, 2);
      rate = number(data, at + 4, 4), bits = number(data, at + 14, 2);
      if (format == kExtensible && told >= 26) format = number(data, at + 24, 2);
    } else if (name == "data") {
      // Programs that write into a pipe do not know the length, and say the most there is, or none.
      if (told > left && told < 0xFFFFF000u) throw Error(path + ": is cut short");
      begin = at, bytes = told > left ? left : told;
      break;
    }
    // Chunks begin at even places.
    at += told + told % 2;
  }
  if (!begin || !rate || !channels) throw Error(path + ": is a WAV file without audio");
  const bool pcm = format == kPcm && bits == 16;
  if (!pcm && !(format == kFloat && bits == 32))
    throw Error(path + ": has format " + std::to_string(format) + " of " + std::to_string(bits) +
                " bits, and only 16-bit PCM and 32-bit float are read");
  const size_t width = bits / 8, samples = bytes / (width * channels);
  if (!samples) throw Error(path + ": has no samples");
  Audio audio{rate, std::vector<std::vector<float>>(channels, std::vector<float>(samples))};
  for (size_t i = 0, at = begin; i < samples; ++i)
    for (auto& channel : audio.channels) {
      const uint32_t value = number(data, at, static_cast<int>(width));
      channel[i] = pcm ? static_cast<float>(static_cast<int16_t>(value)) / 32768.0f : as_float(value);
      at += width;
    }
  return audio;
}

void write_wav(const std::string& path, const Audio& audio) {
  const uint64_t channels = audio.channels.size(), samples = audio.channels.at(0).size();
  const uint64_t bytes = 4 * channels * samples, rate = audio.rate;
  if (bytes > 0xFFFFF000u) throw Error(path + ": would be larger than a WAV file can be");
  std::string data = "RIFF";
  put(data, static_cast<uint32_t>(48 + bytes), 4);
  data += "WAVEfmt ";
  put(data, 16, 4), put(data, kFloat, 2), put(data, channels, 2), put(data, rate, 4);
  put(data, 4 * channels * rate, 4), put(data, 4 * channels, 2), put(data, 32, 2);
  // Formats other than PCM say how many samples there are.
  data += "fact";
  put(data, 4, 4), put(data, samples, 4);
  data += "data";
  put(data, bytes, 4);
  data.reserve(data.size() + bytes);
  for (uint64_t i = 0; i < samples; ++i)
    for (const auto& channel : audio.channels) {
      uint32_t bits;
      std::memcpy(&bits, &channel[i], sizeof bits);
      put(data, bits, 4);
    }
  const std::string temporary = path + ".part";
  std::ofstream file(temporary, std::ios::binary);
  file.write(data.data(), static_cast<std::streamsize>(data.size()));
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    std::remove(temporary.c_str());
    throw Error(path + ": cannot be written");
  }
}

}  // namespace ussfast
