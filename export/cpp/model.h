// A causal model of a directory that `python -m ussfast.export MODEL --aoti` made: one hop in, one hop per source out.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "json.h"

namespace ussfast {

class Model {
 public:
  // prompts: names in prompts.json, or in the file `vectors` of the same form ("" for none); if there are none, all
  // that are in these files. Throws Error.
  Model(const std::string& directory, std::vector<std::string> prompts, const std::string& vectors, int threads);
  ~Model();

  int64_t rate() const { return rate_; }
  int64_t hop() const { return hop_; }
  int64_t latency() const { return latency_; }  // from a sample of the input to the same one of the output
  // What comes out before the first sample that went in: the latency, less the hop that is waited for.
  int64_t delay() const { return latency_ - hop_; }
  const std::vector<std::string>& prompts() const { return prompts_; }

  // Forgets all audio.
  void reset();
  // hop() samples -> prompts().size() * hop() samples, one source after another; valid until the next call.
  const float* step(const float* samples);

 private:
  struct Packages;
  void read_prompts(const std::string& directory, const std::string& vectors);
  std::string package(const Json& about, const std::string& directory, const std::string& graph);
  std::vector<int64_t> shape(const Json& port) const;

  int64_t rate_ = 0, hop_ = 0, latency_ = 0;
  std::vector<std::string> prompts_;
  std::vector<float> vectors_;  // of the prompts, one after another
  std::vector<std::pair<size_t, size_t>> state_;  // input and output of what is carried on
  std::vector<std::vector<int64_t>> shapes_;      // of the inputs of a step
  std::unique_ptr<Packages> packages_;
};

}  // namespace ussfast
