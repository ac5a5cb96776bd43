// Grammars of whole answers: the text that each encoding puts around a form's JSON.
#pragma once

#include <string_view>
#include <vector>

#include "text/chat.h"
#include "text/grammar/constraint.h"
#include "text/grammar/grammar_json.h"
#include "text/grammar/json_schema.h"
#include "text/tokenizer.h"

namespace fathom {

// Makes the parts of one answer's grammar. `tokenizer` says which markers are tokens.
class AnswerGrammar {
 public:
  AnswerGrammar(const JsonGrammar& json, const Tokenizer& tokenizer, Encoding encoding)
      : json_(json), g_(json.grammar()), tokenizer_(tokenizer), encoding_(encoding) {}

  // Any text up to and including </think>, which may be the token or the same text.
  int32_t reasoning(int32_t next);

  // A block with one call or, if the form allows parallel_calls, any number of calls. Throws
  // GrammarRefusal, whose message begins with the form's place of the tool's parameters, or with
  // "tools[i]".
  int32_t tool_calls(const AnswerForm& form, int32_t next);

 private:
  // The added token `text`, or the same text if the tokenizer has no such token.
  int32_t marker(std::string_view text, int32_t next);
  int32_t dsml_tag(std::string_view begin, std::string_view end, int32_t next);
  int32_t call(const AnswerForm& form, size_t tool, int32_t next);
  int32_t parameters_v32(SchemaGrammar& schema, const SchemaGrammar::Members& members, int32_t end);
  int32_t any_parameters_v32(SchemaGrammar& schema, const SchemaGrammar::Members& members,
                             int32_t end);
  int32_t parameter(std::string_view name, int32_t text, int32_t other);

  const JsonGrammar& json_;
  Grammar& g_;
  const Tokenizer& tokenizer_;
  Encoding encoding_;
};

}  // namespace fathom
