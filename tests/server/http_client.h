// A client that says exactly the bytes it is told, over a real socket.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

namespace fathom::server {

struct HttpAnswer {
  int status = 0;  // 0: none came
  std::string head, body;
  bool cut_off = false;  // the connection ended before the answer did

  // A header's value; empty when absent. Names as the server writes them.
  std::string header(const std::string& name) const {
    const size_t at = head.find("\r\n" + name + ": ");
    if (at == std::string::npos) return {};
    const size_t begin = at + name.size() + 4;
    return head.substr(begin, head.find("\r\n", begin) - begin);
  }
};

class HttpClient {
 public:
  // `receive_buffer`: of the kernel, for clients that are to be slow; 0: the default.
  explicit HttpClient(int port, int receive_buffer = 0) {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (receive_buffer > 0)
      ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    // Far beyond what any test waits for: a bug fails the test instead of hanging it.
    const timeval patience{60, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = fd_ >= 0 && ::connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0;
  }
  ~HttpClient() { close(); }
  HttpClient(HttpClient&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)),
        connected_(other.connected_),
        unread_(std::move(other.unread_)) {}
  HttpClient& operator=(HttpClient&&) = delete;

  bool connected() const { return connected_; }

  // False when the server has closed the connection.
  bool say(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  bool get(const std::string& path) {
    return say("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
  }
  bool post(const std::string& path, const std::string& body, const std::string& headers = {}) {
    return say("POST " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers +
               "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  }

  // Up to and with `end`; what there was when the connection ended first.
  std::string read_until(std::string_view end) {
    size_t at;
    while ((at = unread_.find(end)) == std::string::npos)
      if (!receive()) return std::exchange(unread_, {});
    std::string text = unread_.substr(0, at + end.size());
    unread_.erase(0, at + end.size());
    return text;
  }
  std::string read_to_end() {
    while (receive()) {
    }
    return std::exchange(unread_, {});
  }

  // The next answer, whole. `bodyless`: to a HEAD.
  HttpAnswer answer(bool bodyless = false) {
    HttpAnswer a;
    a.head = read_until("\r\n\r\n");
    if (!a.head.starts_with("HTTP/1.1 ")) {
      a.cut_off = true;
      return a;
    }
    a.status = std::atoi(a.head.c_str() + 9);
    if (bodyless || a.status < 200 || a.status == 204 || a.status == 304) return a;
    if (a.header("Transfer-Encoding") == "chunked") {
      read_chunks(a);
    } else if (const std::string length = a.header("Content-Length"); !length.empty()) {
      a.body = take(std::stoul(length), &a.cut_off);
    } else {
      a.body = read_to_end();
    }
    return a;
  }

  // Ends our side alone, the whole connection, or the connection without a goodbye.
  void end_input() { ::shutdown(fd_, SHUT_WR); }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  void reset() {
    const linger now{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close();
  }

 private:
  bool receive() {
    char block[16384];
    const ssize_t n = ::recv(fd_, block, sizeof(block), 0);
    if (n <= 0) {
      EXPECT_FALSE(n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) << "the server says nothing";
      return false;
    }
    unread_.append(block, static_cast<size_t>(n));
    return true;
  }
  std::string take(size_t count, bool* cut_off) {
    while (unread_.size() < count)
      if (!receive()) {
        *cut_off = true;
        return std::exchange(unread_, {});
      }
    std::string bytes = unread_.substr(0, count);
    unread_.erase(0, count);
    return bytes;
  }
  void read_chunks(HttpAnswer& a) {
    for (;;) {
      const std::string line = read_until("\r\n");
      if (!line.ends_with("\r\n")) {
        a.cut_off = true;
        return;
      }
      const size_t size = std::stoul(line, nullptr, 16);
      a.body += take(size, &a.cut_off);
      if (a.cut_off || read_until("\r\n") != "\r\n") {
        a.cut_off = true;
        return;
      }
      if (size == 0) return;
    }
  }

  int fd_ = -1;
  bool connected_ = false;
  std::string unread_;
};

}  // namespace fathom::server
