"""`/admin` and what is below it: the admin API for people who would rather click.

Each page reads and changes by the API's own functions (`admin.reads`, `admin.writes`), within the scope of the admin
key that somebody signed in with. A file for each noun.
"""
