#include <cstdlib>

#include "core/base/file.h"
#include "tests/fuzz/targets.h"
#include "tests/support/tiny_artifact.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_tokenizer.h"

namespace qamserve {
namespace {

constexpr uint64_t kMaxSeedBytes = 1 << 20;

// As small as a model can be: a fuzzer gets through small inputs faster.
TinyModelOptions SmallestModel() {
  return {.vocab_size = 262,
          .hidden_size = 32,
          .intermediate_size = 64,
          .num_layers = 1,
          .num_heads = 2,
          .num_kv_heads = 1,
          .head_dim = 16,
          .tie_embeddings = true,
          .dtype = DType::kF16};
}

// A folder for the files that seeds are made of.
class Scratch {
 public:
  Scratch() : path_("/tmp/qamserve_seeds_XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  ~Scratch() { RemoveAll(path_).IgnoreError(); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string operator/(std::string_view name) const { return fmt::format("{}/{}", path_, name); }

 private:
  std::string path_;
};

// With a NUL between each two.
std::string Joined(std::initializer_list<std::string_view> parts) {
  std::string joined;
  for (const std::string_view part : parts) joined.append(part).push_back('\0');
  joined.pop_back();
  return joined;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> GgufSeeds() {
  const Scratch scratch;
  std::vector<std::string> seeds;
  for (const Architecture architecture : {Architecture::kLlama, Architecture::kGemma3}) {
    TinyModelOptions model = SmallestModel();
    model.architecture = architecture;
    const std::string path = scratch / "model.gguf";
    RETURN_IF_ERROR(WriteTinyGguf(model, path));
    ASSIGN_OR_RETURN(std::string bytes, ReadFile(path, kMaxSeedBytes));
    seeds.push_back(std::move(bytes));
  }
  return seeds;
}

absl::StatusOr<std::vector<std::string>> SafetensorsSeeds() {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
      R"("b.weight":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"c":{"dtype":"I8","shape":[0],"data_offsets":[22,22]}})";
  std::string file;
  for (size_t i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> (8 * i));
  file += header + std::string(22, '\x3c');
  return std::vector<std::string>{
      file,
      R"({"metadata":{"total_size":22},"weight_map":{"a":"model-1.safetensors","b.weight":"model-2.safetensors"}})"};
}

absl::StatusOr<std::vector<std::string>> TokenizerSeeds() {
  const std::string byte_level = TinyTokenizerJson(MakeTinyVocabulary(270));
  const std::string fallback =
      R"j({"version":"1.0","added_tokens":[{"id":0,"content":"<unk>","special":true},{"id":1,"content":"<s>",)j"
      R"j("special":true,"normalized":false,"lstrip":true}],"normalizer":{"type":"Sequence","normalizers":[)j"
      R"j({"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},)j"
      R"j("pre_tokenizer":null,"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>",)j"
      R"j("type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[1],)j"
      R"j("tokens":["<s>"]}}},"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},)j"
      R"j("content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},)j"
      R"j("model":{"type":"BPE","byte_fallback":true,"fuse_unk":true,"unk_token":"<unk>","vocab":{"<unk>":0,"<s>":1,)j"
      R"j("<0xC3>":2,"<0xB6>":3,"▁":4,"a":5,"b":6,"▁a":7,"ab":8},"merges":["▁ a","a b"]}})j";
  const std::string split =
      R"j({"added_tokens":[],"normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Sequence","pretokenizers":[)j"
      R"j({"type":"Split","pattern":{"Regex":"(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+|\\s+"},)j"
      R"j("behavior":"Isolated","invert":false},{"type":"Digits","individual_digits":true},{"type":"ByteLevel",)j"
      R"j("add_prefix_space":false,"use_regex":false}]},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE",)j"
      R"j("ignore_merges":true,"vocab":{"a":0,"b":1,"Ġ":2,"ab":3},"merges":[["a","b"]]}})j";
  return std::vector<std::string>{
      Joined({byte_level, TinyTokenizerConfigJson(), "Hello w\xc3\xb6rld <|im_end|>\n 1234"}),
      Joined({fallback, R"({"bos_token":"<s>","add_bos_token":true})", " ab \xc3\xb6 b"}),
      Joined({split, "{}", "ab it's 123 \xff"})};
}

absl::StatusOr<std::vector<std::string>> ChatTemplateSeeds() {
  return std::vector<std::string>{
      Joined({TinyChatTemplate(), "hi"}),
      Joined(
          {"{{ x }}{{ x | tojson(indent=2) }}{{ x | string }}{{ x ~ 1.5 }}", R"({"x": {"a": [1.5, null, "it's"]}})"}),
      Joined({"{% for m in messages %}{{ m }}{{ '>' + m.tool_calls[0].function.arguments }}{% endfor %}",
              R"([{"id": "1", "function": {"name": "f", "arguments": "{\"a\": 1}"}}])"}),
      Joined(
          {"{% macro f(x, y=1) %}{{ x|tojson(indent=2) }}{% if y > 0 %}{{ f(x, y - 1) }}{% endif %}{% endmacro %}"
           "{% set ns = namespace(a=[], n=0) %}{%- for m in messages if m.role != 'system' -%}"
           "{% set ns.n = ns.n + loop.index0 %}{% set ns.a = ns.a + [m['content'][1:3]] %}"
           "{% if loop.last and m is mapping %}{{ f(m) }}{% elif not loop.first %}{% continue %}{% else %}{% break %}"
           "{% endif %}{%- endfor %}{{ ns.a|join(', ')|upper }}{{ ns.a|length ~ 'x' * 3 }}",
           "some content"}),
      Joined({"{% for k, v in {'b': 2, 'a': [1, 2.5, none]}|dictsort %}{{ k }}{{ v }}{% endfor %}"
              "{% filter indent(2) %}{{ range(1, 9, 3)|list }}{% endfilter %}{{ [3, 1, 2]|sort|first }}"
              "{{ (messages|selectattr('role', 'equalto', 'user')|list)[-1].content.split(' ')|map('upper')|list }}"
              "{% call(x) f() %}{{ x }}{% endcall %}{{ 'a' if 1 is divisibleby 2 else 'b'.replace('b', 'c') }}",
              "a b"}),
      Joined({"{% if tools is defined and tools %}{{ tools|tojson }}{% endif %}{{ strftime_now('%Y') }}"
              "{% set x = [1] %}{{ x.append(2) or '' }}{{ x.pop() }}{{ '{} {}'.format(x, bos_token) }}"
              "{% if not add_generation_prompt %}{{ raise_exception('no') }}{% endif %}",
              ""})};
}

absl::StatusOr<std::vector<std::string>> ArtifactSeeds() {
  std::vector<std::string> seeds;
  for (const Codec codec : {Codec::kJoint, Codec::kInt8}) {
    const Scratch scratch;
    QuantizeSpec spec;
    spec.codec = codec;
    spec.bpw = codec == Codec::kInt8 ? 8 : 2.5;
    spec.embedding_bits = 8;
    RETURN_IF_ERROR(WriteTinyArtifact(SmallestModel(), spec, scratch / "a"));
    ASSIGN_OR_RETURN(const std::string config, ReadFile(scratch / "a/artifact/config.json", kMaxSeedBytes));
    ASSIGN_OR_RETURN(const std::string weights, ReadFile(scratch / "a/artifact/model.safetensors", kMaxSeedBytes));
    seeds.push_back(Joined({config, weights}));
  }
  return seeds;
}

absl::StatusOr<std::vector<std::string>> QuantizeSpecSeeds() {
  QuantizeSpec spec;
  std::vector<std::string> seeds = {QuantizeSpecToJson(spec)};
  spec.codec = Codec::kTrellis;
  spec.bpw = 3.5;
  spec.error_feedback = true;
  spec.channel_scale = false;
  spec.rates = {{.filter = "*.down_proj", .bpw = 4}, {.filter = "model.layers.[01].*", .bpw = 2.5}};
  seeds.push_back(QuantizeSpecToJson(spec));
  return seeds;
}

absl::StatusOr<std::vector<std::string>> ConstraintSeeds() {
  return std::vector<std::string>{
      std::string("\1") +
          R"({"$defs": {"a": {"items": {"$ref": "#"}, "maxItems": 3}}, "properties": {"x": {"$ref": "#/$defs/a"},
          "y": {"enum": [1, "b", null]}, "z": {"type": "number", "minimum": -1.5, "exclusiveMaximum": 20}},
          "required": ["y"], "additionalProperties": {"type": "string", "pattern": "^a+|b$"}})",
      std::string("\1") +
          R"({"allOf": [{"type": ["object", "null"], "minProperties": 0}, {"oneOf": [{"required": ["k"]}, true]}],
          "properties": {"k": {"format": "date-time"}, "l": {"minLength": 2, "maxLength": 200}}})",
      "\2^(a|[^b-d\\d]{2,30}|\\u00e9+?)*(x{3,}y?)?$",
      "\3root ::= \"a\\n\" [^a-z]{2,9} (item | \"b\")* # c\nitem ::= \"(\" root? \")\" | [0-9]+ .",
      "\4[\"yes\", \"no\", \"y\\u00e9s\"]"};
}

}  // namespace qamserve
