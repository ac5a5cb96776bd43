// SchemaCore rewrites schemas to a few core forms. Generators write the same thing in many ways
// (allOf of one, oneOf beside a discriminator, nullable, the tuples of old drafts, keywords beside
// a $ref); SchemaGrammar knows only the core forms.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/python_json.h"

namespace fathom {

// The schemas of one document. Every function throws GrammarRefusal, whose message begins with the
// place in the document, for what is wrong. In strict mode it also throws for what is not
// supported, which is otherwise ignored.
class SchemaCore {
 public:
  // `root` must outlive this; `where` stands for it in messages.
  SchemaCore(const OrderedJson& root, std::string where, bool strict)
      : root_(root), root_where_(std::move(where)), strict_(strict) {}

  bool strict() const { return strict_; }

  // Returns `schema` in one of the core forms:
  //   true, false
  //   {"$ref": ...}     alone
  //   {"anyOf": [...]}  alone, or {"oneOf": [...]} alone, which is read in the same way
  //   {"enum": [...]}   alone; its values are of the types that were asked for
  //   the keywords of types (properties, items, pattern, minimum, ...), perhaps with `type`
  // The result lives as long as this object.
  const OrderedJson& of(const OrderedJson& schema, const std::string& where);

  // `schema` and {"type": `type`} together, in the same forms.
  const OrderedJson& of_type(const OrderedJson& schema, const char* type, const std::string& where);

  // The schema that the $ref of `schema` leads to, and its place: "#", "#/a/b" with percent codes,
  // "#anchor", or the $id of a schema in the document.
  std::pair<const OrderedJson*, std::string> target_of(const OrderedJson& schema,
                                                       const std::string& where);

  // Appends the values that follow `schema` to `values`, each once. Returns false if the schema
  // does not list them, or if there are more than `most`.
  bool list_values(const OrderedJson& schema, const std::string& where, size_t most,
                   OrderedJson& values);

  // Throws in strict mode; otherwise does nothing.
  void leave_out(const std::string& where, std::string_view reason) const;

 private:
  // Limits of merging (schemas that refer to each other may stand for exponentially many): the
  // number of merged parts, and the bytes of the results.
  static constexpr size_t kMaxParts = 20'000, kMaxKeptBytes = 8'000'000;

  struct Conjunction;

  const OrderedJson& keep(OrderedJson schema);

  bool is_core(const OrderedJson& schema) const;
  OrderedJson simplified(const std::vector<const OrderedJson*>& all, const std::string& where);
  void add(Conjunction& all, const OrderedJson& schema, const std::string& where);
  void add_keywords(Conjunction& all, const OrderedJson& schema, const std::string& where);
  void merge(OrderedJson& base, const OrderedJson& more, const std::string& where) const;
  void merge_keyword(OrderedJson& base, const std::string& key, const OrderedJson& value,
                     const std::string& where) const;
  OrderedJson finished(Conjunction& all, const std::string& where) const;
  void find_names(const OrderedJson& schema, const std::string& where, int depth);

  const OrderedJson& root_;
  const std::string root_where_;
  const bool strict_;
  std::deque<OrderedJson> kept_;
  size_t parts_ = 0, kept_bytes_ = 0;
  std::map<std::pair<const OrderedJson*, std::string>, const OrderedJson*> cores_;  // and a type
  bool names_found_ = false;
  // Schemas by "#anchor" and by $id, with their places.
  std::map<std::string, std::pair<const OrderedJson*, std::string>> names_;
};

}  // namespace fathom
