"""The Kamailio snippets of the README and of docs/production.md: completed into a whole configuration, checked by Kamailio,
used for one call.

The snippet is the fenced block after `<!-- kamailio.cfg -->`. It may be a whole script (with a request_route) or only the
lines for one: loadmodule and modparam, named routes, and statements. Of these the routes that nothing calls are called,
and the statements run, before a request is relayed.
"""
import os
import re

from lab import run
from scenarios import A, B, LAST, Skip, scenario
from scene import PROXY, Failed
from script import CALLER, Bye, Ended, Setup

FENCE = re.compile(r'<!--\s*kamailio\.cfg\s*-->\s*\n```[^\n]*\n(.*?)\n```', re.S)
# What a proxy has beside the snippet.
MODULES = ('tm', 'sl', 'rr', 'pv', 'maxfwd', 'textops', 'siputils')
GLOBALS = '''#!KAMAILIO
debug=2
log_stderror=yes
fork=yes
children=2
disable_tcp=yes
auto_aliases=no
'''
ROUTE = '''
request_route {
	if (is_method("CANCEL")) {
		if (t_check_trans()) t_relay();
		exit;
	}
	if (has_totag()) {
		if (loose_route()) t_relay();
		else if (is_method("ACK") && t_check_trans()) t_relay();
		exit;
	}
	if (is_method("INVITE")) record_route();
%s
	t_relay();
}
'''


def take_apart(snippet):
    """(loadmodule and other lines for the head, whole routes, loose statements), each as text."""
    head, routes, statements, depth = [], [], [], 0
    for line in snippet.split('\n'):
        bare = re.sub(r'"[^"]*"|#(?!!).*', '', line)
        if depth:
            routes.append(line)
        elif re.match(r'\s*(\w+_)?route\b', bare) and '{' in bare:
            routes.append(line)
        elif re.match(r'\s*(loadmodule|modparam|#|[a-z_]+\s*=)', line) or not line.strip():
            head.append(line)
            continue
        else:
            statements.append('\t' + line)
            continue
        depth += bare.count('{') - bare.count('}')
    return '\n'.join(head), '\n'.join(routes), '\n'.join(statements)


def complete(snippet, mp_socket, rpc_socket):
    """A configuration that can be loaded: the snippet, with the tests' sockets in place of its own, and what it leaves out."""
    snippet = re.sub(r'(?m)^\s*listen\s*=.*$', '', snippet)
    for parameter, path in (('mediaproxy_socket', mp_socket), ('dgram_socket', rpc_socket)):
        snippet = re.sub(r'("%s"\s*,\s*)"[^"]*"' % parameter, r'\g<1>"%s"' % path, snippet)
    if 'mediaproxy_socket' not in snippet:
        raise Failed('the snippet does not set mediaproxy_socket')
    if snippet.lstrip().startswith('#!KAMAILIO'):
        snippet = snippet.lstrip().partition('\n')[2]
    head, routes, statements = take_apart(snippet)
    modules = ''.join('loadmodule "%s.so"\n' % m for m in MODULES if not re.search(r'loadmodule\s+"%s(\.so)?"' % m, head))
    whole = re.search(r'(?m)^\s*(request_route|route)\s*\{', routes)
    return GLOBALS + modules + head + '\n' + routes + ('\n' if whole else ROUTE % (statements + '\n' + calls(routes)))


def calls(routes):
    """The statements that use the named routes which the snippet itself leaves to its reader to call."""
    how = {'': 'route(%s);', 'onreply_': 't_on_reply("%s");', 'failure_': 't_on_failure("%s");'}
    lines = []
    for kind, name in re.findall(r'(?m)^\s*(|onreply_|failure_)route\s*\[(\w+)\]', routes):
        call = how[kind] % name
        if call.rstrip(';') not in routes:
            lines.append('\t' + call)
    return '\n'.join(lines)


def used(scene, path, places=()):
    """Places a call through the snippets of this page; in them, `places` are pairs of a text and what stands for it here."""
    try:
        with open(path) as f:
            snippets = FENCE.findall(f.read())
    except FileNotFoundError:
        snippets = []
    if not snippets:
        raise Skip('%s has no <!-- kamailio.cfg --> snippet' % path)
    text = '\n'.join(snippets)
    for there, here in places:
        if there not in text:
            raise Failed('%s: no %s' % (path, there))
        text = text.replace(there, here)
    config = os.path.join(scene.scratch, 'kamailio.cfg')
    with open(config, 'w') as f:
        f.write(complete(text, os.path.join(scene.scratch, 'tap.sock'), scene.daemons.rpc))
    try:
        run('ip', 'netns', 'exec', scene.router, 'kamailio', '-c', '-f', config)
    except RuntimeError as error:
        raise Failed('Kamailio refuses the snippet: %s' % error)
    return config


@scenario('readme', modes=('',), standin=True)
def readme(scene):
    config = used(scene, scene.options.readme)
    caller, callee = scene.two_phones()
    scene.start(config=config)
    scene.place(scene.call(caller, callee, [Setup(A, B), LAST, Bye(CALLER)]))
    scene.finish(conntrack=scene.router)


def behind_the_page(scene):
    """Both phones, and the whole script of docs/production.md; the callee stands for the registrar or PBX."""
    caller, callee = scene.two_phones()
    page = os.path.join(os.path.dirname(scene.options.readme), 'docs', 'production.md')
    config = used(scene, page, (('192.0.2.20:5060', '%s:%d' % (callee.ip, callee.sip_port)), ('"192.0.2.20"', '"%s"' % callee.ip)))
    return caller, callee, config


@scenario('production', modes=('engage',), standin=False)
def production(scene):
    caller, callee, config = behind_the_page(scene)
    scene.start(config=config)
    scene.place(scene.call(caller, callee, [Setup(A, B), LAST, Bye(CALLER)]))
    scene.finish(conntrack=scene.router)


@scenario('production-dead', modes=('engage',), standin=False)
def production_dead(scene):
    """The media stops: both phones get their BYE, by the socket that the page sets up."""
    caller, callee, config = behind_the_page(scene)
    scene.start(relays=[lambda: scene.daemons.start_relay(scene.router, '127.0.0.1', relay_ip=PROXY, stream_timeout=3)], config=config)
    scene.place(scene.call(caller, callee, [Setup(A, B), Ended()], statistics=False, least=40), seconds=0.7)
    scene.until_flowing()
    scene.finish()
