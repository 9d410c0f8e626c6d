// Reads JSON: what export.json and prompts.json need, with an error for everything else.
#pragma once

#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace ussfast {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Json {
 public:
  enum class Kind { null, boolean, number, text, list, table };

  static Json parse(const std::string& text) {
    Reader reader{text, 0};
    Json found = reader.value(0);
    reader.space();
    if (reader.at != text.size()) reader.fail("something behind the end");
    return found;
  }

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::null; }
  bool has(const std::string& name) const { return kind_ == Kind::table && table_.count(name); }

  const Json& operator[](const std::string& name) const {
    if (!has(name)) throw Error("has no \"" + name + "\"");
    return table_.at(name);
  }
  double number() const { return want(Kind::number, "a number"), number_; }
  int64_t whole() const {
    const double value = number();
    if (!(value >= -9e15 && value <= 9e15) || value != static_cast<double>(static_cast<int64_t>(value)))
      throw Error("has a number that is not whole where one is needed");
    return static_cast<int64_t>(value);
  }
  const std::string& text() const { return want(Kind::text, "a text"), text_; }
  const std::vector<Json>& list() const { return want(Kind::list, "a list"), list_; }
  const std::map<std::string, Json>& table() const { return want(Kind::table, "a table"), table_; }

 private:
  void want(Kind kind, const char* what) const {
    if (kind_ != kind) throw Error(std::string("has something else where ") + what + " is needed");
  }

  struct Reader {
    const std::string& text;
    size_t at;

    [[noreturn]] void fail(const std::string& what) const {
      throw Error("is not JSON: " + what + " at byte " + std::to_string(at));
    }
    char peek() const { return at < text.size() ? text[at] : '\0'; }
    void space() {
      while (at < text.size() && std::string(" \t\r\n").find(text[at]) != std::string::npos) ++at;
    }
    void expect(char c) {
      space();
      if (peek() != c) fail(std::string("no ") + c);
      ++at;
    }
    bool follows(char c) {
      space();
      if (peek() != c) return false;
      ++at;
      return true;
    }

    Json value(int depth) {
      if (depth > 64) fail("too many levels");
      space();
      Json out;
      const char c = peek();
      if (c == '{') {
        out.kind_ = Kind::table;
        ++at;
        if (follows('}')) return out;
        do {
          space();
          std::string name = quoted();
          expect(':');
          out.table_[std::move(name)] = value(depth + 1);
        } while (follows(','));
        expect('}');
      } else if (c == '[') {
        out.kind_ = Kind::list;
        ++at;
        if (follows(']')) return out;
        do out.list_.push_back(value(depth + 1));
        while (follows(','));
        expect(']');
      } else if (c == '"') {
        out.kind_ = Kind::text;
        out.text_ = quoted();
      } else if (c == '-' || std::isdigit(static_cast<unsigned char>(c))) {
        const char* begin = text.c_str() + at;
        char* end = nullptr;
        out.kind_ = Kind::number;
        out.number_ = std::strtod(begin, &end);
        if (end == begin) fail("no number");
        at += end - begin;
      } else if (word("true") || word("false")) {
        out.kind_ = Kind::boolean;
      } else if (!word("null")) {
        fail("no value");
      }
      return out;
    }

    bool word(const char* wanted) {
      const std::string name = wanted;
      if (text.compare(at, name.size(), name) != 0) return false;
      at += name.size();
      return true;
    }

    std::string quoted() {
      if (peek() != '"') fail("no text");
      std::string out;
      for (++at;; ++at) {
        if (at >= text.size()) fail("a text without an end");
        const char c = text[at];
        if (c == '"') break;
        if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a text");
        if (c != '\\') {
          out += c;
          continue;
        }
        const char escaped = ++at < text.size() ? text[at] : '\0';
        static const std::string from = "\"\\/bfnrt", to = "\"\\/\b\f\n\r\t";
        const size_t place = from.find(escaped);
        if (escaped == 'u')
          append(out, unit());
        else if (escaped && place != std::string::npos)
          out += to[place];
        else
          fail("an unknown escape");
      }
      ++at;
      return out;
    }

    // The code point behind \u, of two units where it needs two; `at` is on its last digit afterwards.
    uint32_t unit() {
      uint32_t code = four();
      if (code >= 0xD800 && code < 0xDC00 && text.compare(at + 1, 2, "\\u") == 0) {
        at += 2;
        const uint32_t low = four();
        if (low < 0xDC00 || low > 0xDFFF) fail("half a character");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      }
      return code;
    }
    uint32_t four() {
      uint32_t code = 0;
      for (int i = 0; i < 4; ++i) {
        if (++at >= text.size() || !std::isxdigit(static_cast<unsigned char>(text[at]))) fail("a wrong \\u");
        code = code * 16 + static_cast<uint32_t>(std::stoi(std::string(1, text[at]), nullptr, 16));
      }
      return code;
    }
    static void append(std::string& out, uint32_t code) {
      if (code < 0x80) {
        out += static_cast<char>(code);
        return;
      }
      const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
      static const int first[] = {0, 0xC0, 0xE0, 0xF0};
      out += static_cast<char>(first[more] | (code >> (6 * more)));
      for (int i = more - 1; i >= 0; --i) out += static_cast<char>(0x80 | ((code >> (6 * i)) & 0x3F));
    }
  };

  Kind kind_ = Kind::null;
  double number_ = 0;
  std::string text_;
  std::vector<Json> list_;
  std::map<std::string, Json> table_;
};

}  // namespace ussfast
