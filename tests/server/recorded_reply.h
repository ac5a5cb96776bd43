// A reply that keeps what it was given, for handlers that answer at once on the caller's thread.
#pragma once

#include <string>

#include "server/http.h"

namespace fathom::server {

class RecordedReply : public HttpReply {
 public:
  void send(int status, std::string_view type, std::string text, HttpHeaders given) override {
    status_ = status;
    content_type = type;
    body = std::move(text);
    for (auto& [name, value] : given) headers[name] = value;
  }
  void begin(int status, std::string_view type, HttpHeaders given) override {
    send(status, type, {}, std::move(given));
  }
  void write(std::string bytes) override { body += bytes; }
  void end() override { ended = true; }
  void post(std::function<void()> task) override { task(); }
  void on_abandoned(std::function<void()>) override {}
  int status() const override { return status_; }

  std::string content_type, body;
  std::map<std::string, std::string> headers;
  bool ended = false;

 private:
  int status_ = 0;
};

}  // namespace fathom::server
