"""Who gets an answer from a page's server, and who does not."""

import http.client
import json
import socket
import threading

import pytest

from belle_jax.pages import server
from belle_jax.pages.server import HERE, LARGEST, PageServer

JSON = {'Content-Type': 'application/json'}


def fail(query):
    raise OSError('the disk is full.')


@pytest.fixture
def page():
    """A server that answers, and what was posted to it."""
    posted = []
    served = PageServer(
        {'': lambda query: f'<p>{query.get("a")}', 'rows': lambda query: ['</script>', '\ud83d']},
        {'put': posted.append, 'full': fail},
        ['style.css'],
    )
    served.posted = posted  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=served.serve_forever, args=(0.01,))
    thread.start()
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


def ask(page, method='GET', path='', body=None, token=None, **headers):
    """The answer's status, text and headers; headers are given with _ for -."""
    connection = http.client.HTTPConnection(HERE, page.server_port, timeout=20)
    given = {name.replace('_', '-'): value for name, value in headers.items()}
    token = page.token if token is None else token
    connection.request(method, f'/{token}/{path}' if token else f'/{path}', body, given)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, answer.headers


def raw(page, request):
    """The status that bytes get."""
    with socket.create_connection((HERE, page.server_port), timeout=20) as connection:
        connection.sendall(request.encode())
        return int(connection.recv(100).split()[1])


def put(page, body: str | bytes = '1', path='put', **headers):
    return ask(page, 'POST', path, body, **{'Content_Type': 'application/json', **headers})


def test_a_page_its_rows_and_its_style_come_with_what_keeps_them_apart(page):
    status, text, headers = ask(page, path='?a=%E7%94%B2')
    assert (status, text) == (200, '<p>甲')
    assert headers['Content-Type'] == 'text/html; charset=utf-8'
    rows, style = ask(page, path='rows'), ask(page, path='style.css')
    # No tag begins in JSON, and half a character arrives as one.
    assert rows[1] == '["\\u003c/script>", "\\ud83d"]'
    assert rows[2]['Content-Type'].startswith('application/json')
    assert style[2]['Content-Type'].startswith('text/css') and 'color-scheme' in style[1]
    for _, _, headers in (rows, style, put(page), ask(page, token='')):
        assert headers['Cache-Control'] == 'no-store'
        assert headers['Referrer-Policy'] == 'no-referrer'
        assert headers['X-Content-Type-Options'] == 'nosniff'
        policy = headers['Content-Security-Policy']
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "frame-ancestors 'none'" in policy and 'unsafe' not in policy
        assert 'Access-Control-Allow-Origin' not in headers


@pytest.mark.parametrize('token', ['', 'x', '%C3%A9', '/', '..', 'put'])
def test_nothing_is_done_without_the_token(page, token):
    assert ask(page, token=token)[0] == 403
    wrong = ask(page, 'POST', 'put', '1', token, **JSON)
    assert wrong[0] == 403 and not page.posted
    assert page.token not in wrong[1]


def test_a_token_of_strange_bytes_is_none(page):
    assert raw(page, 'GET /é/ HTTP/1.1\r\nHost: localhost\r\n\r\n') == 403


def test_tokens_are_long_and_never_the_same(page):
    with PageServer({}, {}, []) as other:
        assert other.token != page.token and min(len(other.token), len(page.token)) >= 32


@pytest.mark.parametrize(
    'host',
    ['evil.example', 'evil.example:{port}', '127.0.0.1.evil.example', 'localhost.evil', '', '[::1',
     'localhost@evil.example', '2130706433'],
)  # fmt: skip
def test_a_name_that_a_web_site_can_have_is_refused(page, host):
    host = host.format(port=page.server_port)
    for answer in (ask(page, Host=host), put(page, Host=host)):
        assert answer[0] == 403 and 'address' in answer[1]
    assert not page.posted


@pytest.mark.parametrize('host', ['127.0.0.1:{port}', 'localhost:9000', '[::1]:9000', '10.0.0.5'])
def test_this_machine_is_known_by_its_numbers_and_through_a_tunnel(page, host):
    host = host.format(port=page.server_port)
    assert put(page, Host=host, Origin=f'http://{host}')[0] == 200


@pytest.mark.parametrize(
    'origin',
    ['http://evil.example', 'null', 'https://{host}', 'http://{host}.evil.example', 'http://{host}/',
     'http://localhost:1', ''],
)  # fmt: skip
def test_another_page_can_post_nothing_even_with_the_token(page, origin):
    host = f'{HERE}:{page.server_port}'
    status, text, _ = put(page, Origin=origin.format(host=host))
    assert status == 403 and 'another page' in text and not page.posted


def test_a_body_is_json_that_tells_its_length_and_is_not_too_large(page):
    assert put(page, '{"a": [1]}') [0] == 200 and page.posted == [{'a': [1]}]  # fmt: skip
    assert put(page, Content_Type='text/plain')[0] == 415  # what a form can send
    assert put(page, Content_Type='application/x-www-form-urlencoded')[0] == 415
    for body in ('{', '\ud800'.encode('utf-8', 'surrogatepass'), '[' * 100_000):
        assert put(page, body)[0] == 400
    for length, status in ((LARGEST + 1, 413), ('9' * 5000, 413), ('0' * 30 + '9' * 30, 413),
                           ('-1', 411), ('', 411), ('１', 411)):  # fmt: skip
        head = f'Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}'
        assert raw(page, f'POST /{page.token}/put HTTP/1.1\r\n{head}\r\n\r\n') == status
    assert len(page.posted) == 1


def test_what_is_not_there_is_not_found_and_what_reads_does_not_write(page):
    for method, path in (
        ('GET', 'nothing'), ('GET', 'put'), ('GET', '../server.py'), ('GET', 'server.py'),
        ('GET', 'report.jinja'), ('POST', 'rows'), ('POST', ''),
    ):  # fmt: skip
        status, text, _ = ask(page, method, path, '1', Content_Type='application/json')
        assert status == 404 and 'nothing at' in json.loads(text)['error'], path
    assert ask(page, 'PUT', 'put', '1')[0] == 501 and not page.posted


def test_what_the_disk_refuses_is_said_to_the_page(page):
    status, text, _ = put(page, path='full')
    assert (status, json.loads(text)) == (500, {'error': 'the disk is full.'})


def test_only_this_machine_is_listened_to_unless_told_otherwise(page, monkeypatch, capsys):
    assert page.server_address[0] == '127.0.0.1'
    assert page.address == f'http://127.0.0.1:{page.server_port}/{page.token}/'
    for host, exposed in ((HERE, False), ('0.0.0.0', True)):
        with PageServer({}, {}, [], host) as other:
            monkeypatch.setattr(other, 'serve_forever', interrupted)
            other.serve()
            said = capsys.readouterr().out
            assert ('nothing is encrypted' in said) == exposed and other.address in said


def interrupted():
    raise KeyboardInterrupt


def test_a_port_that_is_taken_or_impossible_is_a_sentence(page):
    for host, port in ((HERE, page.server_port), (HERE, 70_000), ('192.0.2.1', 0)):
        with pytest.raises(ValueError, match='cannot be listened at'):
            PageServer({}, {}, [], host, port)


def test_browsers_that_go_away_are_nobodys_mistake(page, capfd):
    for _ in range(5):
        with socket.create_connection((HERE, page.server_port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
            connection.sendall(f'GET /{page.token}/ HTTP/1.1\r\nHost: localhost\r\n\r\n'.encode())
    assert ask(page)[0] == 200
    assert capfd.readouterr().err == '' and server.PATIENCE <= 60
