#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/tokenizer/regex.h"

#include <pcre2.h>

#include <algorithm>

#include "core/tokenizer/utf8.h"

namespace qamserve {
namespace {

constexpr size_t kMaxPatternBytes = 64 * 1024;
// Backtracking steps allowed from one start. The known patterns need a handful; a hostile one must not hold a thread.
constexpr uint32_t kMatchLimit = 1'000'000;
// Patterns that recurse need more than the 32 KiB that the JIT takes from the machine stack.
constexpr uint32_t kHeapLimitKib = 64 * 1024;

// White space as Oniguruma and std::regex of the reference tools see it. PCRE2's own \s also takes U+180E.
constexpr std::string_view kSpaceClass = "\\x{9}-\\x{d}\\x{85}\\p{Z}";

// The PCRE2 form of the escape that `rest` starts with; `used` receives its length.
std::string TranslateEscape(std::string_view rest, bool in_class, size_t& used) {
  used = std::min<size_t>(2, rest.size());
  if (rest.size() < 2) return std::string(rest);
  switch (rest[1]) {
    case 's':
      return in_class ? std::string(kSpaceClass) : fmt::format("[{}]", kSpaceClass);
    case 'S':
      return in_class ? "\\S\\x{180e}" : fmt::format("[^{}]", kSpaceClass);
    case 'u':
      if (rest.size() < 6) break;
      used = 6;
      return fmt::format("\\x{{{}}}", rest.substr(2, 4));
    default:
      break;
  }
  return std::string(rest.substr(0, 2));
}

absl::StatusOr<std::string> TranslatePattern(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size();) {
    const std::string_view rest = pattern.substr(i);
    size_t used = 1;
    if (rest[0] == '\\') {
      out += TranslateEscape(rest, in_class, used);
    } else if (!in_class && rest[0] == '[') {
      used = rest.starts_with("[^") ? 2 : 1;
      out += rest.substr(0, used);
      in_class = true;
    } else if (in_class && rest.starts_with("[:") && rest.find(":]") != std::string_view::npos) {
      used = rest.find(":]") + 2;
      out += rest.substr(0, used);
    } else if (in_class && (rest[0] == '[' || rest.starts_with("&&"))) {
      return Unimplemented("TOKENIZER_UNSUPPORTED", "nested or intersected character classes in the pattern \"{}\"",
                           pattern);
    } else {
      in_class = in_class && rest[0] != ']';
      out += rest[0];
    }
    i += used;
  }
  return out;
}

std::string ErrorText(int code) {
  PCRE2_UCHAR text[160];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* p) const {
    Free(p);
  }
};
using CompileContext = std::unique_ptr<pcre2_compile_context, Freer<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>>;

}  // namespace

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return InvalidArgument("TOKENIZER_INVALID", "a pattern of {} bytes; the limit is {}", pattern.size(),
                           kMaxPatternBytes);
  }
  ASSIGN_OR_RETURN(const std::string translated, TranslatePattern(pattern));
  const CompileContext context(pcre2_compile_context_create(nullptr));
  int error = 0;
  PCRE2_SIZE where = 0;
  // Oniguruma's Ruby syntax: ^ and $ are line anchors.
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), kOptions, &error,
                                   &where, context.get());
  if (code == nullptr) {
    return InvalidArgument("TOKENIZER_INVALID", "pattern \"{}\": {} at byte {}", pattern, ErrorText(error), where);
  }
  // Without executable memory the JIT is refused; the interpreter gives the same matches.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return Regex(std::shared_ptr<const pcre2_real_code_8>(
      code, [](const pcre2_real_code_8* c) { pcre2_code_free(const_cast<pcre2_code*>(c)); }));
}

std::vector<TextSpan> Regex::FindAll(std::string_view text) const {
  std::string masked;
  if (HasSurrogates(text)) {
    masked = MaskSurrogates(text);
    text = masked;
  }
  const MatchData data(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  const MatchContext context(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  std::vector<TextSpan> out;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  for (size_t at = 0; at < text.size();) {
    int rc = pcre2_match(code_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, data.get(), context.get());
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(code_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(),
                       context.get());
    }
    if (rc < 0) break;
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
    if (span[1] > span[0] && span[0] >= at) {
      out.push_back({span[0], span[1]});
      at = span[1];
    } else {
      at = span[1] + Utf8Length(span[1] < text.size() ? static_cast<unsigned char>(text[span[1]]) : 0);
    }
  }
  return out;
}

}  // namespace qamserve
