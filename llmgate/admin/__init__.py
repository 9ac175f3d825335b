"""The admin API: users, teams, keys, credits and limits as JSON, for other programs.

One table says all of it: `routes.ROUTES`. The server obeys it (`api`), the OpenAPI document is made of it (`document`),
and a test walks it with every kind of key. What a route does is a function of a transaction and a call (`reads`,
`writes`), by the functions of the store that the CLI calls too; `desk` runs it beside the event loop.

    bodies   what may be sent        answers  what is told, made of the store's rows
    calls    a call, a route         paging   a listing in pieces
"""
