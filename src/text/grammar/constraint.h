// Answers that keep to a form: JSON, a JSON schema, tool calls in a checkpoint's own encoding. A
// description is compiled to a grammar over bytes and markers, and a grammar to the set of tokens
// that may come next.
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
    tool_calls,   // one call or several of `tools`, their arguments after their schemas
  };
  Kind kind = Kind::free;
  OrderedJson schema;
  // Function objects (name, parameters, strict). Of kind tool_calls they are what must be called;
  // of json_object and json_schema, what may be called in place of that answer.
  std::vector<OrderedJson> tools;
  // What a schema asks for and a grammar cannot enforce is refused (true) or left out (false).
  // `strict_tools` is for functions that do not say it themselves.
  bool strict = true, strict_tools = true;
  // What refusals call the schema, and the parameters of each function: their places in the
  // client's request. Those of functions that have none here are "tools[i].parameters".
  std::string schema_place = "schema";
  std::vector<std::string> tool_places;
  bool parallel_calls = true;  // false: exactly one call
  // The answer may start with reasoning that is not restricted, up to </think>.
  bool thinking = false;
};

// The state of one answer: which tokens may come next. Thread-compatible.
class TokenMatcher {
 public:
  virtual ~TokenMatcher() = default;
  // The tokens that may follow what was accepted, as bits: token i is bit i % 64 of word i / 64.
  // Never empty of ones: where the form is complete, the stop ids are set, and behind a stop id
  // nothing else. Markers that are added tokens are allowed where the form has them, and nowhere
  // inside of text. An empty vector: any token may come.
  virtual void allowed(std::vector<uint64_t>& mask) = 0;
  // False if the token was not allowed; the state is then unchanged.
  virtual bool accept(int32_t token) = 0;
  // How many of the first tokens may come, one after the other. Accepts none of them.
  virtual size_t possible(std::span<const int32_t> tokens) = 0;
  // The answer may end here.
  virtual bool complete() const = 0;
  // No token of the vocabulary goes on with the answer, though it is not complete: only where
  // single bytes of the vocabulary are added tokens. The stop ids are allowed then, for lack of
  // others.
  virtual bool stuck() const = 0;
};

// A form made ready for one tokenizer.
class CompiledForm;

// Any answer follows it: no matcher is needed.
bool restricts_nothing(const CompiledForm& form);

// Compiles forms for one tokenizer. Compiled forms are shared between the answers that use them.
// Every method may be called from many threads at once.
class ConstraintFactory {
 public:
  // `tokenizer` must outlive the factory, and the factory's forms. `stop_ids`, one at least, end an
  // answer.
  ConstraintFactory(const Tokenizer& tokenizer, Encoding encoding, std::vector<int32_t> stop_ids);
  ~ConstraintFactory();
  ConstraintFactory(const ConstraintFactory&) = delete;
  ConstraintFactory& operator=(const ConstraintFactory&) = delete;

  // A form that cannot be kept to (a schema outside the subset of docs/server.md, a tool without a
  // name) is a Failure with status 400 that names the place in the schema and what is accepted.
  // Compiled forms are remembered, so the same schema costs its compilation once.
  Result<std::shared_ptr<const CompiledForm>> compile(const AnswerForm& form);

  std::unique_ptr<TokenMatcher> matcher(std::shared_ptr<const CompiledForm> form) const;

  // Runs a task on one of the factory's own few threads, for masks that are made while nobody waits
  // for them. It must not throw. What has not run when the factory is destroyed runs then.
  void post(std::function<void()> task);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom
