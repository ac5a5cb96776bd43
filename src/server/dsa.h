// GET /v1/dsa/selection: which context tokens the indexer selected for a generated token.
//
//   (no parameter)        {"keep_selection": true}: whether selections are kept
//   request=ID            the request's text, token by token
//   request=ID&token=K    by layer, what was selected for generated token K (0 is the first)
#pragma once

#include <string>

#include "server/http/http.h"
#include "server/selection_store.h"
#include "text/tokenizer.h"

namespace fathom::server {

struct DsaSource {
  const SelectionStore& store;
  const Tokenizer& tokenizer;
  std::string model;  // as answers carry it
  bool keeps = false;
};

void answer_selection(const DsaSource& source, const HttpRequest& request, HttpReply& reply);

}  // namespace fathom::server
