// Separates a WAV file, or a stream of samples, with a package of AOTInductor: README.md.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "model.h"
#include "wav.h"

namespace {

using ussfast::Error;
using ussfast::Model;

constexpr char kUsage[] =
    "usage: ussfast-aoti separate IN.wav OUTDIR -d DIR [-p PROMPT,...] [-v VECTORS.json] [-t THREADS]\n"
    "       ussfast-aoti stream -d DIR [-p PROMPT,...] [-v VECTORS.json] [-t THREADS] < PCM > PCM\n\n"
    "  -d  what 'python -m ussfast.export MODEL --aoti -o DIR' made, of a causal model\n"
    "  -p  what to separate, names in prompts.json; all of them by default\n"
    "  -v  more prompts: a file like prompts.json\n"
    "  -t  threads, 1 by default\n\n"
    "stream reads mono float32 samples at the model's rate and writes float32 samples, one of each source in turn.\n";

struct Usage : Error {
  using Error::Error;
};

struct Options {
  std::vector<std::string> words, prompts;
  std::string directory, vectors;
  int threads = 1;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text)
    if (c == ',')
      parts.emplace_back();
    else
      parts.back() += c;
  for (const auto& part : parts)
    if (part.empty()) throw Usage("-p must be names with commas between them, got \"" + text + "\"");
  return parts;
}

Options options_of(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.size() < 2 || word[0] != '-') {
      options.words.push_back(word);
      continue;
    }
    if (word != "-d" && word != "-p" && word != "-v" && word != "-t") throw Usage("unknown option " + word);
    if (++i == argc) throw Usage(word + " needs a value");
    const std::string value = argv[i];
    if (word == "-d") options.directory = value;
    if (word == "-p") options.prompts = split(value);
    if (word == "-v") options.vectors = value;
    if (word == "-t") {
      if (value.empty() || value.size() > 3 || value.find_first_not_of("0123456789") != std::string::npos ||
          (options.threads = std::stoi(value)) < 1)
        throw Usage("-t must be from 1 to 999, got \"" + value + "\"");
    }
  }
  if (options.directory.empty()) throw Usage("-d is missing: the directory of an exported model");
  return options;
}

// A name of a file for each prompt, also where one is asked for twice.
std::vector<std::string> file_names(const std::vector<std::string>& prompts) {
  std::vector<std::string> names;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::string& name = prompts[i];
    if (name[0] == '.' || name.find_first_of("/\\") != std::string::npos)
      throw Error("prompt \"" + name + "\" cannot be the name of a file");
    const auto before = std::count(prompts.begin(), prompts.begin() + i, name);
    std::string file = name;
    if (before) file.append("-").append(std::to_string(before + 1));
    names.push_back(file.append(".wav"));
  }
  return names;
}

void separate(const Options& options) {
  if (options.words.size() != 3) throw Usage("separate takes a WAV file and a folder");
  const ussfast::Audio mixture = ussfast::read_wav(options.words[1]);
  Model model(options.directory, options.prompts, options.vectors, options.threads);
  if (mixture.rate != model.rate())
    throw Error(options.words[1] + ": has " + std::to_string(mixture.rate) + " Hz, and the model takes " +
                std::to_string(model.rate()) + " Hz: convert it first");
  const auto names = file_names(model.prompts());
  const size_t hop = model.hop(), samples = mixture.channels[0].size(), length = samples + model.delay();
  std::vector<ussfast::Audio> stems(names.size(), ussfast::Audio{mixture.rate, {}});
  std::vector<float> chunk(hop);
  for (const auto& channel : mixture.channels) {
    model.reset();
    for (auto& stem : stems) stem.channels.emplace_back();
    for (size_t at = 0; at < length; at += hop) {
      for (size_t i = 0; i < hop; ++i) chunk[i] = at + i < samples ? channel[at + i] : 0.0f;
      const float* out = model.step(chunk.data());
      for (auto& stem : stems) {
        stem.channels.back().insert(stem.channels.back().end(), out, out + hop);
        out += hop;
      }
    }
    for (auto& stem : stems) {
      auto& rows = stem.channels.back();
      rows.erase(rows.begin(), rows.begin() + model.delay());
      rows.resize(samples);
    }
  }
  std::error_code error;
  std::filesystem::create_directories(options.words[2], error);
  if (!std::filesystem::is_directory(options.words[2]))
    throw Error(options.words[2] + ": cannot be made: " + (error ? error.message() : "it is a file"));
  for (size_t i = 0; i < names.size(); ++i) ussfast::write_wav(options.words[2] + "/" + names[i], stems[i]);
}

void stream(const Options& options) {
  if (options.words.size() != 1) throw Usage("stream takes options only");
  Model model(options.directory, options.prompts, options.vectors, options.threads);
  const size_t hop = model.hop(), sources = model.prompts().size();
  std::string names;
  for (const auto& name : model.prompts()) names += (names.empty() ? "" : ", ") + name;
  std::fprintf(stderr,
               "%s: %zu x float32 at %lld Hz, latency %lld samples (%.1f ms), of which %lld come out before the first "
               "sample\n",
               names.c_str(), sources, static_cast<long long>(model.rate()), static_cast<long long>(model.latency()),
               1e3 * model.latency() / model.rate(), static_cast<long long>(model.delay()));
  std::vector<float> chunk(hop), frames(hop * sources);
  // `count` samples of what the model makes of the chunk.
  const auto pass = [&](size_t count) {
    const float* out = model.step(chunk.data());
    for (size_t i = 0; i < hop; ++i)
      for (size_t k = 0; k < sources; ++k) frames[i * sources + k] = out[k * hop + i];
    if (std::fwrite(frames.data(), sizeof(float), count * sources, stdout) != count * sources || std::fflush(stdout))
      throw Error("standard output: cannot be written");
  };
  const size_t bytes = hop * sizeof(float);
  size_t found;
  while ((found = std::fread(chunk.data(), 1, bytes, stdin)) == bytes) pass(hop);
  if (std::ferror(stdin)) throw Error("standard input: cannot be read");
  // The end: silence, until the last sample that went in has come out.
  const size_t samples = found / sizeof(float);
  std::fill(chunk.begin() + samples, chunk.end(), 0.0f);
  for (size_t left = samples + model.delay(); left > 0; left -= std::min(left, hop)) {
    pass(std::min(left, hop));
    std::fill(chunk.begin(), chunk.end(), 0.0f);
  }
  if (found % sizeof(float)) throw Error("standard input: ended inside a sample: float32 is needed");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc > 1 && (!std::strcmp(argv[1], "-h") || !std::strcmp(argv[1], "--help"))) {
      std::fputs(kUsage, stdout);
      return 0;
    }
    const std::string what = argc > 1 ? argv[1] : "";
    if (what != "separate" && what != "stream") throw Usage("the first word must be separate or stream");
    const Options options = options_of(argc, argv);
    what == "separate" ? separate(options) : stream(options);
    return 0;
  } catch (const Usage& error) {
    std::fprintf(stderr, "ussfast-aoti: %s\n%s", error.what(), kUsage);
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ussfast-aoti: %s\n", error.what());
    return 1;
  }
}
