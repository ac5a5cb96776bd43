// Structured output: answers that follow a form, which is JSON, a JSON schema, or tool calls in the
// checkpoint's encoding. A form is compiled to a grammar over bytes and markers. At each step the
// grammar gives the set of tokens that may come next.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/chat.h"
#include "text/tokenizer.h"

namespace fathom {

// What an answer must look like.
struct AnswerForm {
  enum class Kind {
    free,         // anything
    json_object,  // one JSON object
    json_schema,  // one JSON value that follows `schema`
    tool_calls,   // one or more calls of `tools`, with arguments that follow the schemas
  };
  Kind kind = Kind::free;
  OrderedJson schema;
  // Function objects (name, parameters, strict). Kind tool_calls: the answer must call them. Kinds
  // json_object and json_schema: the answer may call them instead of giving the JSON.
  std::vector<OrderedJson> tools;
  // What to do with schema keywords that a grammar cannot enforce: refuse them (true) or ignore
  // them (false). `strict_tools` applies to functions without a `strict` of their own.
  bool strict = true, strict_tools = true;
  // The names of the schema and of each function's parameters in error messages: their places in
  // the client's request. A function without an entry is called "tools[i].parameters".
  std::string schema_place = "schema";
  std::vector<std::string> tool_places;
  bool parallel_calls = true;  // false: exactly one call
  // The answer may begin with unrestricted reasoning, up to </think>.
  bool thinking = false;
};

// The state of one answer: which tokens may come next. Thread-compatible.
class TokenMatcher {
 public:
  virtual ~TokenMatcher() = default;
  // Returns in `mask` the tokens that may follow those accepted so far: token i is bit i % 64 of
  // word i / 64. At least one bit is set: the stop ids are allowed where the form is complete, and
  // nothing else after a stop id. Markers that are added tokens are allowed where the form has
  // them, never inside of text. An empty vector means that any token may come.
  virtual void allowed(std::vector<uint64_t>& mask) = 0;
  // Appends the token. Returns false, and changes nothing, if the token is not allowed.
  virtual bool accept(int32_t token) = 0;
  // Returns how many of `tokens` would be accepted, one after the other, from the first on. Changes
  // nothing.
  virtual size_t possible(std::span<const int32_t> tokens) = 0;
  // Whether the answer may end here.
  virtual bool complete() const = 0;
  // Whether no token of the vocabulary can continue the answer although it is not complete. The
  // stop ids are then allowed. This happens only with a vocabulary in which single bytes are added
  // tokens.
  virtual bool stuck() const = 0;
};

// A form compiled for one tokenizer.
class CompiledForm;

// Whether every answer follows the form, so that no matcher is needed.
bool restricts_nothing(const CompiledForm& form);

// Compiles forms for one tokenizer. Compiled forms are shared between the answers that use them.
// Every method may be called from many threads at once.
class ConstraintFactory {
 public:
  // `tokenizer` must outlive the factory, and the factory's forms. `stop_ids` (at least one) end an
  // answer.
  ConstraintFactory(const Tokenizer& tokenizer, Encoding encoding, std::vector<int32_t> stop_ids);
  ~ConstraintFactory();
  ConstraintFactory(const ConstraintFactory&) = delete;
  ConstraintFactory& operator=(const ConstraintFactory&) = delete;

  // Returns a Failure with status 400 for a form that is not supported (a schema outside the subset
  // of docs/server.md, a tool without a name). It names the place in the schema and what is
  // accepted there. The last compiled forms are kept, so a schema that comes again is not compiled
  // again.
  Result<std::shared_ptr<const CompiledForm>> compile(const AnswerForm& form);

  std::unique_ptr<TokenMatcher> matcher(std::shared_ptr<const CompiledForm> form) const;

  // Runs a task on one of the factory's threads; used to compute masks in advance. The task must
  // not throw. The destructor of the factory runs the tasks that are left.
  void post(std::function<void()> task);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom
