#include "model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace ussfast {
namespace {

using Loader = torch::inductor::AOTIModelPackageLoader;

Json read_json(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path)) throw Error(path + ": cannot be read");
  try {
    return Json::parse({std::istreambuf_iterator<char>(file), {}});
  } catch (const Error& error) {
    throw Error(path + ": " + error.what());
  }
}

// Errors of PyTorch have a trace behind their first line.
std::string first_line(const std::exception& error) {
  const std::string said = error.what();
  return said.substr(0, said.find('\n'));
}

std::string listed(const std::vector<std::string>& names) {
  std::string out;
  for (const auto& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

// A wrong instruction would end the program without a word. Where the system tells nothing of its processor, nothing is
// checked.
void check_processor(const std::string& path, const std::string& wanted) {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line) && line.compare(0, 5, "flags") != 0) {
  }
  if (!file) return;
  line += ' ';
  for (const auto& [name, flag] : {std::pair("AVX512", " avx512f "), std::pair("AVX2", " avx2 ")})
    if (wanted.find(name) != std::string::npos && line.find(flag) == std::string::npos)
      throw Error(path + ": made for a processor with" + flag + "which this one has not: export it here");
}

size_t place(const std::vector<std::string>& names, const std::string& name) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) throw Error("has no \"" + name + "\" where the step needs one");
  return found - names.begin();
}

std::vector<std::string> names_of(const Json& ports) {
  std::vector<std::string> names;
  for (const auto& port : ports.list()) names.push_back(port["name"].text());
  return names;
}

}  // namespace

struct Model::Packages {
  c10::Device device{c10::kCPU};
  std::unique_ptr<Loader> step;
  size_t audio = 0;                 // its place among the inputs
  std::vector<at::Tensor> inputs;   // of the next call
  std::vector<at::Tensor> outputs;  // of the last one
  at::Tensor out;                   // on the CPU

  std::unique_ptr<Loader> load(const std::string& path) {
    try {
      auto about = Loader::load_metadata_from_package(path, "model");
      device = c10::Device(about.count("AOTI_DEVICE_KEY") ? about["AOTI_DEVICE_KEY"] : "cpu");
      check_processor(path, about["AOTI_CPU_ISA"]);
      return std::make_unique<Loader>(path);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw Error(path + ": cannot be loaded: " + first_line(error));
    }
  }
};

Model::~Model() = default;

Model::Model(const std::string& directory, std::vector<std::string> prompts, const std::string& vectors, int threads)
    : prompts_(std::move(prompts)), packages_(std::make_unique<Packages>()) {
  at::set_num_threads(threads);
  const c10::InferenceMode guard;
  const std::string path = directory + "/export.json";
  if (!std::filesystem::exists(path))
    throw Error(directory + ": no exported model (export.json is missing): make one with 'python -m ussfast.export "
                            "MODEL --aoti -o " + directory + "'");
  const Json about = read_json(path);
  std::vector<size_t> asked;
  at::Tensor rows;
  Packages& its = *packages_;
  try {
    if (about["format"].text() != "ussfast-export" || about["version"].whole() != 1)
      throw Error("is of another version than this program reads (ussfast-export, 1)");
    if (about["kind"].text() != "aoti") throw Error("is of kind " + about["kind"].text() + ": export with --aoti");
    const Json& graphs = about["graphs"];
    if (!graphs.has("step")) throw Error("has no graph \"step\": export a causal model with --mode step");
    rate_ = about["sample_rate"].whole(), hop_ = about["hop"].whole(), latency_ = about["latency_samples"].whole();
    if (rate_ < 1 || hop_ < 1 || latency_ < hop_) throw Error("has a rate, a hop or a latency that cannot be");
    read_prompts(directory, vectors);
    const int64_t repeats = about["config"].has("repeats") ? about["config"]["repeats"].whole() : 1;
    for (const auto& name : prompts_)
      if (std::count(prompts_.begin(), prompts_.end(), name) > repeats)
        throw Error("tells at most " + std::to_string(repeats) + " prompts \"" + name + "\" apart");
    const Json& step = graphs["step"];
    const int64_t most = step["dims"].has("sources") ? step["dims"]["sources"].list().at(1).whole() : 1;
    if (static_cast<int64_t>(prompts_.size()) > most)
      throw Error("takes " + std::to_string(most) + " prompts at once, not " + std::to_string(prompts_.size()) +
                  ": export it with more (--max-prompts)");
    const auto inputs = names_of(step["inputs"]), outputs = names_of(step["outputs"]);
    for (const auto& port : step["inputs"].list()) shapes_.push_back(shape(port));
    for (const auto& pair : step["state"].list())
      state_.emplace_back(place(inputs, pair.list().at(0).text()), place(outputs, pair.list().at(1).text()));
    its.audio = place(inputs, "audio"), asked = {place(inputs, "scale"), place(inputs, "shift")};
    if (inputs.size() != state_.size() + 3 || outputs.at(0) != "out") throw Error("has a step of an unknown kind");
    its.step = its.load(package(step, directory, "step"));
    const int64_t sources = static_cast<int64_t>(prompts_.size());
    rows = at::from_blob(vectors_.data(), {1, sources, static_cast<int64_t>(vectors_.size()) / sources}).clone();
    if (rows.size(2) != graphs["prompts"]["inputs"].list().at(0)["shape"].list().at(2).whole())
      throw Error("takes other prompt vectors than of " + std::to_string(rows.size(2)) + " numbers");
    const auto found = its.load(package(graphs["prompts"], directory, "prompts"))->run({rows.to(its.device)});
    its.inputs.resize(inputs.size());
    for (size_t i = 0; i < 2; ++i) its.inputs[asked[i]] = found.at(i).contiguous();
  } catch (const std::out_of_range&) {
    throw Error(path + ": has too short a list");
  } catch (const c10::Error& error) {
    throw Error(path + ": " + first_line(error));
  } catch (const Error& error) {
    const std::string said = error.what();
    const bool named = said.find(directory) == 0 || (!vectors.empty() && said.find(vectors) == 0);
    throw named ? error : Error(path + ": " + said);
  }
  reset();
}

void Model::read_prompts(const std::string& directory, const std::string& vectors) {
  const std::string own = directory + "/prompts.json";
  std::vector<std::pair<std::string, Json>> files;
  if (!vectors.empty()) files.emplace_back(vectors, read_json(vectors));
  if (std::filesystem::exists(own)) files.emplace_back(own, read_json(own));
  std::vector<std::string> known;
  for (const auto& [path, file] : files)
    for (const auto& entry : file.table()) known.push_back(entry.first);
  if (prompts_.empty()) prompts_ = known;
  if (prompts_.empty()) throw Error(own + ": has no prompts: give a file of vectors");
  size_t size = 0;
  for (const auto& name : prompts_) {
    const auto found = std::find_if(files.begin(), files.end(), [&](const auto& it) { return it.second.has(name); });
    if (found == files.end()) throw Error(directory + ": has no prompt \"" + name + "\", only " + listed(known));
    const auto& row = found->second[name].list();
    if (row.empty() || (size && row.size() != size)) throw Error(found->first + ": its vectors differ in length");
    size = row.size();
    for (const auto& value : row) vectors_.push_back(static_cast<float>(value.number()));
  }
}

std::string Model::package(const Json& about, const std::string& directory, const std::string& graph) {
  const std::string& file = about["file"].text();
  if (file.empty() || file.find_first_of("/\\") != std::string::npos)
    throw Error("graphs." + graph + ".file must be a file of the same folder");
  const std::string path = directory + "/" + file;
  if (!std::filesystem::is_regular_file(path)) throw Error(path + ": missing: export the model again");
  return path;
}

std::vector<int64_t> Model::shape(const Json& port) const {
  std::vector<int64_t> sizes;
  for (const auto& size : port["shape"].list()) {
    if (size.kind() == Json::Kind::number)
      sizes.push_back(size.whole());
    else if (size.text() == "batch")
      sizes.push_back(1);
    else if (size.text() == "sources")
      sizes.push_back(static_cast<int64_t>(prompts_.size()));
    else
      throw Error("has an unknown size \"" + size.text() + "\"");
    if (sizes.back() < 1 || sizes.back() > 1 << 24) throw Error("has a size that cannot be");
  }
  return sizes;
}

void Model::reset() {
  const c10::InferenceMode guard;
  for (const auto& [input, output] : state_)
    packages_->inputs[input] = at::zeros(shapes_[input], at::TensorOptions().device(packages_->device));
}

const float* Model::step(const float* samples) {
  const c10::InferenceMode guard;
  Packages& its = *packages_;
  // A tensor of its own: it may be handed back as what the next call remembers.
  const at::Tensor audio = at::from_blob(const_cast<float*>(samples), {1, hop_}).clone();
  its.inputs[its.audio] = audio.to(its.device);
  its.outputs = its.step->run(its.inputs);
  // The package reads memory as it was laid out when it was made: without gaps.
  for (const auto& [input, output] : state_) its.inputs[input] = its.outputs.at(output).contiguous();
  its.out = its.outputs.at(0).cpu().contiguous();
  return its.out.const_data_ptr<float>();
}

}  // namespace ussfast
