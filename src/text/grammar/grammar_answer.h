// Whole answers: what stands around the JSON of a form in each encoding.
#pragma once

#include <string_view>
#include <vector>

#include "text/chat.h"
#include "text/grammar/grammar_json.h"
#include "text/tokenizer.h"

namespace fathom {

// Makes the parts of one answer's grammar. `tokenizer` says which markers are tokens.
class AnswerGrammar {
 public:
  AnswerGrammar(const JsonGrammar& json, const Tokenizer& tokenizer, Encoding encoding)
      : json_(json), g_(json.grammar()), tokenizer_(tokenizer), encoding_(encoding) {}

  // Any text, up to and with </think>, whether that comes as the token or as text.
  int32_t reasoning(int32_t next);

  // A block with one call or, if `parallel`, any number of them. `tools` are function objects and
  // must outlive the call. Throws GrammarRefusal led by "tools[i]" and the place in it.
  int32_t tool_calls(const std::vector<OrderedJson>& tools, bool parallel, int32_t next);

 private:
  // The added token of that text, or the text where the tokenizer has no such token.
  int32_t marker(std::string_view text, int32_t next);
  int32_t dsml_tag(std::string_view begin, std::string_view end, int32_t next);
  int32_t call_v31(const OrderedJson& tool, const std::string& where, int32_t next);
  int32_t call_v32(const OrderedJson& tool, const std::string& where, int32_t next);
  int32_t parameter(std::string_view name, int32_t text, int32_t other);

  const JsonGrammar& json_;
  Grammar& g_;
  const Tokenizer& tokenizer_;
  Encoding encoding_;
};

}  // namespace fathom
